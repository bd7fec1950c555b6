"""What to try next: the study, its storage and samplers, and the model that proposes plans."""
