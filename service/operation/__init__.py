"""Operation of the service: the server, access, logs, metrics and traces."""
