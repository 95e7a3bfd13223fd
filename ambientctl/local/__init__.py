"""A whole mesh on one Linux machine: nodes and pods as network namespaces."""
