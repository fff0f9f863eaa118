"""Several processes that share the ports and look like one gateway; does I/O."""
