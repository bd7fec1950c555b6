"""What to try next, who runs it, what is kept, what is handed over."""
