"""What a client of bundles has to get right, computed once: `python -m conformance`. README.md says what is written."""
