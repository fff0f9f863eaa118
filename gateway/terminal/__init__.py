"""A live view of a gateway in a terminal, for people without a browser."""
