"""Layers on SFTP servers."""
