"""What can be searched of all runs, by key and in columns: derived from the store, and rebuilt from it at any time."""
