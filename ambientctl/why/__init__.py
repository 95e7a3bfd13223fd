"""``ambientctl why``: the path of a connection, the verdict at each hop, and what would flip it."""
