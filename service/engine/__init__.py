"""The engine: owns the device, and knows nothing of HTTP."""
