"""What may be varied: one technique, one file, found by listing this package."""
