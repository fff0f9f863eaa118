"""Exact token ids of requests: by a tokenizer here, or by the engines themselves."""
