"""Answers given before: equal questions, and those that mean the same."""
