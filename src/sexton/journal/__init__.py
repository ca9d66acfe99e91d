"""The local write-ahead log of a run: what training writes and the courier reads. Knows no store."""
