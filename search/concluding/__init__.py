"""How a search ends: the test split, the proof, what stood in the way, what each choice bought."""
