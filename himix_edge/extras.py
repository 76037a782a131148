"""What `pip install 'himix-edge[EXTRA]'` brings; a target's own extras are in its record, see `runtimes.registry`.

The extras themselves are in pyproject.toml; a test compares.
"""

TORCH = "torch"  # to run a model in PyTorch, or count its costs, and nothing else
CONVERT = "convert"
TRAIN = "train"
MMMU = "mmmu"
