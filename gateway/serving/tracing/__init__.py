"""OpenTelemetry traces of requests, off unless they are asked for."""
