"""What a board runs: only Python's standard library, NumPy and the bundle's runtime are there."""
