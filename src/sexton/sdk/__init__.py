"""The public Python API: what runs inside training. Writes to the journal; knows no network and no SQL."""
