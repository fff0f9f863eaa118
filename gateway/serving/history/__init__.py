"""What the gateway remembers of its figures, longer than a process lives: sums per ten seconds, minute and hour."""
