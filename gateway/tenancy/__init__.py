"""Tenants: who asks, what they may use, how much of it, and in which cache; pure."""
