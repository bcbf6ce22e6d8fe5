"""Other model servers, hosting what one would write without an engine. They run in environments of their own."""
