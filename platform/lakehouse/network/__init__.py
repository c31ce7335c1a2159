"""Bounds on how long a server may leave us without an answer, where its client library has none."""
