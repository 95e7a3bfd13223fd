"""Nouns that every part of the mesh speaks; flat, frozen, without I/O."""
