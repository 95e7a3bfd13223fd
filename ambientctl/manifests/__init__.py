"""The mesh's Kubernetes objects: plain YAML with marked values, one source for every way in.

``kubectl apply -k`` takes the files as they are; ``ambientctl install`` and the Helm chart put
other values in the place of those that a comment marks (``template``).
"""
