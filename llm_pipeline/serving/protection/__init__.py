"""Who may ask, and for how much: keys, limits and budgets over all gateway processes."""
