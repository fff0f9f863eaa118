"""Experiments: which arm a request's unit falls to, by hashes alone; pure."""
