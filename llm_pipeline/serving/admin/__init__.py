"""The API for operators, on a port of its own: it writes the desired state and reads what was observed."""
