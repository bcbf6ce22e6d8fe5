"""What operators need: the server, access, logs, metrics and traces."""
