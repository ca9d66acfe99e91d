"""The nouns of the record: pure values and rules over them. Knows no file, no SQL, no clock, no setting."""
