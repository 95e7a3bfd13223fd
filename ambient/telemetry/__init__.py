"""Logs, metrics and the record of a connection."""
