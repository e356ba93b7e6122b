"""The overlay: many layers shown as one tree. Knows layers, never sockets or the bytes of the kernel protocol."""
