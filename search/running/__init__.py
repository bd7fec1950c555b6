"""Who runs trials, when they stop, and what is kept of them."""
