"""The L7 proxy of a namespace."""
