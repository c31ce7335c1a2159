"""Extraction against the limits of the server and against other tools, on the same data in one run."""
