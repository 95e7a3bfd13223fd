"""HBONE: HTTP/2 CONNECT tunnels over mutual TLS, and the relay that moves their bytes."""
