"""What runs an exported file: one runtime, one file."""
