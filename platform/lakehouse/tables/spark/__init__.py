"""The Spark engine: executors fold and write, the driver commits by the same rule as the embedded engine."""
