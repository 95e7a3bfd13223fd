"""Performs: sockets, tasks, threads and files around the core."""
