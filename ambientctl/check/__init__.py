"""``ambientctl check``: is the mesh healthy, and could one be installed here?"""
