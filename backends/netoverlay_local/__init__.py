"""Layers that are directories of this machine."""
