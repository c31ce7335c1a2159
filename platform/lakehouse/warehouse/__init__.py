"""Warehouses: publish lake tables, read them back, query."""
