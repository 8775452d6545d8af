"""Benchmarks behind the README's tables: `make bench`, or `llm-pipeline bench NAME`."""
