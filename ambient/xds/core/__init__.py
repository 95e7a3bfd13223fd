"""Decides: bytes, time and facts in, values and commands out; no I/O."""
