"""What a person brings, read and checked at the border: models, weights, images."""
