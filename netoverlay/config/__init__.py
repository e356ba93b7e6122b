"""Profiles: what is mounted where, read from TOML and validated."""
