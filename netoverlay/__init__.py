"""A userspace overlay file system over network file systems: see README.md, and docs/ for the rest."""
