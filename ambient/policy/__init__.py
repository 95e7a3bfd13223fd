"""L4 authorization: which policies apply, what they decide, and why."""
