"""Other libraries, in environments of their own: model servers that host what one would write without an engine, and a
toolbox of attacks."""
