"""The demo: the mesh's story on the local mesh, every step checked for real."""
