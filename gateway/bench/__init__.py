"""Benchmarks that a user runs against engines: the prefill ladder and the chunk sweep; does I/O."""
