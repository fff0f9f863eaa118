"""Several gateways, or several workers of one, share what they learn: never on a request's path; does I/O."""
