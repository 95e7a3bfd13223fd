"""``ambientctl migrate``: a namespace from sidecars to ambient mode, and back."""
