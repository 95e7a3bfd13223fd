"""A small kubelet: runs the pods of one node as processes, in the namespaces that CNI fills."""
