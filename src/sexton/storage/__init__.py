"""Bytes of artifacts: what takes transactions of the store and objects of a place, in the order that loses none."""
