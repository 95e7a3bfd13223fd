"""Performs what the core decided: listeners, exchanges, upstream connections, metrics."""
