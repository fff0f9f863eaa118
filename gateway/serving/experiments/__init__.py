"""Experiments while the gateway runs: started, stopped, observed, kept and reported; does I/O."""
