"""One trial's work: build, train, export, evaluate; and the teacher it learns from."""
