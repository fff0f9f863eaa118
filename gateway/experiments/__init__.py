"""Experiments: what was observed of each arm, and what may be said of it; pure."""
