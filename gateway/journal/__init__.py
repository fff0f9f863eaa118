"""The journal: what is written of each ended request, from which routing can be replayed; pure."""
