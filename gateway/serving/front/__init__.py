"""The HTTP/1.1 front: clients' connections, their requests, and the answers; does I/O."""
