"""`python -m himix_edge` is the `himix` command."""

from himix_edge.cli import main

main()
