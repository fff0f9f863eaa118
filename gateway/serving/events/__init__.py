"""KV-cache events: subscribing, replaying, and turning messages into facts."""
