"""What bytes mean: request bodies in, engines' replies and streams out; pure."""
