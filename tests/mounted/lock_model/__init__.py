"""Random lock calls by several processes, and a model of what fcntl(2) and flock(2) do, byte by byte."""
