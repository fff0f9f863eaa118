"""Shadow traffic: copies of requests go to another pool, and what comes of them is only measured; does I/O."""
