"""``ambientctl ztunnel-config``."""
