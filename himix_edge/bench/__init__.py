"""The latency harness: what is measured, under which rules, and how it is written down and shown."""
