"""Chunked prefill under management: who is changed next, whether it was worth it, what to advise; pure."""
