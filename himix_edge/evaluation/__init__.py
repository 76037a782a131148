"""How good are the answers: published tasks, exact matches, perplexity, similarity of states, FLOPs."""
