"""Routing: which replica takes a request, and what we learned from the answers; pure."""
