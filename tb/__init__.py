"""Testbenches, mirroring the silicon: ``tb/x/y.py`` proves ``hw/x/y.py``."""
