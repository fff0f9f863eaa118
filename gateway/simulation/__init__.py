"""Virtual time: traces replayed through the very same Router, and through published policies, without waiting."""
