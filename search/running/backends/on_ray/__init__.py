"""What runs inside a Ray cluster. Imports ray, so imported only by those who use it."""
