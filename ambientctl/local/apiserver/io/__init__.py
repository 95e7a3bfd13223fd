"""How the API server meets the network: TLS, HTTP/1.1, watches."""
