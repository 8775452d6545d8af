"""Retrieval: documents to chunks, chunks to vectors, a searchable index generation, and how well it finds things."""
