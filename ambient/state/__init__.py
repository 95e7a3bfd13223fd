"""What the control plane told us: workloads, services and policies, indexed for look-up."""
