"""The L7 proxy of the mesh: HBONE in, HTTP routing and policy, HBONE out."""
