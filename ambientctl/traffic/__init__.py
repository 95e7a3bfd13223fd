"""``ambientctl top``, ``tap`` and ``graph``: what goes through the mesh now."""
