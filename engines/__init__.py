"""Engines: their dialects (pure) and a simulated engine; imports nothing of gateway."""
