"""What is wrong, or useless, in a set of Kubernetes objects; the library behind ``analyze``."""
