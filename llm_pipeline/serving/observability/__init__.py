"""What is kept of every interaction: log, feedback, traces and metrics."""
