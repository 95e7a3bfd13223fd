"""The embedded Kubernetes API server of the one-machine mesh."""
