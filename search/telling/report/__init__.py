"""The page that a search ends with: one file, no network, for a phone and a reviewer alike."""
