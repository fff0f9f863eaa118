"""Which replicas the gateway has while it runs: added, drained, removed, reloaded, discovered; does I/O."""
