"""Evaluation: answers of each model to the suites, what they are worth, and whether a challenger may replace the champion."""
