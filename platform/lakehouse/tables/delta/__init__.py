"""Delta tables: the log is written here, read with delta-rs."""
