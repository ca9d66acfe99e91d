"""Bytes by what they are: a digest names them, so they never change. Knows no runs."""
