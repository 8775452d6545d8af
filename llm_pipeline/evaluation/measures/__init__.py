"""The metrics that a suite may name, one per file; a file of one's own has the same form (see `measure.py`)."""
