"""The only port that clients see: one request from its first byte to its durable record."""
