"""A simulated engine: a pure model of cache, scheduler and time, and an HTTP server that speaks either dialect."""
