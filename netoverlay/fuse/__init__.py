"""The kernel channel: the FUSE protocol of Linux. Knows bytes and requests, never layers."""
