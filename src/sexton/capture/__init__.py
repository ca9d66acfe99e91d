"""What a process can tell about itself, and what an observer can see of one from outside. Knows no run and no file of
the record: it gives values back and calls whoever asked."""
