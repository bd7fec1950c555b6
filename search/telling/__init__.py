"""How a search is told: progress, dry run, terminal, report."""
