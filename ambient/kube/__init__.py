"""The Kubernetes API: client, list-and-watch, and the few kinds that we read."""
