"""Caches of remote layers, each a Backend around a Backend."""
