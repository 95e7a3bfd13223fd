"""Decides about HTTP without touching a socket: parsing, routes, policy, endpoint choice."""
