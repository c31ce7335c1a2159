"""Iceberg tables in a SQL catalog, written without a JVM."""
