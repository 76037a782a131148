"""Training: recipes in stages, deterministic, killable at any moment and resumable."""
