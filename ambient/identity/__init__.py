"""Who we are and whom we talk to: SPIFFE certificates and their life."""
