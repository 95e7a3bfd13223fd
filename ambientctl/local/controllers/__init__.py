"""Kubernetes controllers of the one-machine mesh: one module each."""
