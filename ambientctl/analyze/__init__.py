"""``ambientctl analyze``."""
