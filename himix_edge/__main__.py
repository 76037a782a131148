"""`python -m himix_edge` is the `himix` command."""

from himix_edge.cli import main

if __name__ == "__main__":  # worker processes import it too
    main()
