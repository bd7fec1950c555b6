"""What a model's answers are worth: metrics, and the bound of a drop."""
