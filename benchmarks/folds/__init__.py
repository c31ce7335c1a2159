"""Lake tables: folds by this project's engines, and the same work by the tools that they stand on."""

A_DAY = 27_398
"""Rows of a day in a table that is changed: 10M rows are 365 days, 30M three times as many."""
