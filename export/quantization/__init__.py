"""From float weights to integers and scales, once for all targets."""
