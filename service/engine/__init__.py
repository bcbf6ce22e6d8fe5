"""The engine. It owns the device, and knows nothing of HTTP."""
