"""The kernel's side: redirect rules, namespaces, sockets, agent-to-ztunnel messages."""
