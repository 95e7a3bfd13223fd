"""``ambientctl describe`` and ``authz``: what the mesh does with a pod, a service, a namespace."""
