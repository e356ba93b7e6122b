"""For authors of backends: the conformance suite, a backend in memory, and one that fails on demand."""
