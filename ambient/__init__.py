"""The shared library of the mesh: everything that more than one program needs."""
