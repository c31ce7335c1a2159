"""The embedded engine: DuckDB folds on the local disk, on one machine."""
