"""Prompts become the token ids that an engine will prefill, or nothing at all; reads tokenizer files, else pure."""
