"""What prompts have in common and what keeps them from sharing a cache, from samples that keep no text."""
