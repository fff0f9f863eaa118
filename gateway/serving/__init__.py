"""Serving: sockets, clocks and tasks around the Router; does I/O."""
