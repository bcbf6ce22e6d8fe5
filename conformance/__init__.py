"""Whether others' tools can use the service: `make conformance`."""
