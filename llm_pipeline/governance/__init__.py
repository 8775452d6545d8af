"""What can be shown to others: data and model cards, and an audit log that cannot be edited unnoticed."""
