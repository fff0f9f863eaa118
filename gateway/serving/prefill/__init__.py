"""Chunked prefill under management: rolling changes of a pool's settings, by hand or by advice; does I/O."""
