"""`python -m lakehouse.cli` is the command `lakehouse`."""

from lakehouse.cli import main

main()
