"""What a running mount tells about itself: counters, and the control socket that asks for them."""
