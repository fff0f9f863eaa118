"""Replicas that are found: by DNS, in a watched file, at a Kubernetes API server; does I/O."""
