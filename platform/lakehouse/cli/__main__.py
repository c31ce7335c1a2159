"""`python -m lakehouse.cli` is the command `lakehouse`."""

from lakehouse.cli import console

console()
