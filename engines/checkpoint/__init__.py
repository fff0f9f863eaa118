"""Checkpoints: W4A16 made W4A8 by its config alone, laid out as a folder, and compared with its base."""
