"""``ambientctl install``, ``upgrade`` and ``uninstall``."""
