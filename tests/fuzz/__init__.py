"""Fuzz targets: `python -m tests.fuzz NAME [SECONDS]`; each also runs briefly as a test."""
