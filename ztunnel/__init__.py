"""The node tunnel: L4 mTLS for every enrolled pod of a node."""
