"""The slim control plane: identity, discovery, policy and waypoints."""
