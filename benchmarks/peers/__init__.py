"""Other runtimes with the same decoder and weights; each module says how one is made and timed."""
