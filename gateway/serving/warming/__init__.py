"""Warm hand-off: hot prompts are prefilled where they are about to be needed; does I/O."""
