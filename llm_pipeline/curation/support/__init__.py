"""The `support` source: a fictional retail bank whose documents, customers and ground truth are generated from a seed."""
