"""The quality probe: the same questions to two targets, their answers compared; does I/O."""
