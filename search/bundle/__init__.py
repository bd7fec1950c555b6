"""What is handed over: a folder that stands on its own, and the winner in other formats."""
