"""What may be varied, and how a choice is applied to a model."""

from spaces.plan import CompressionPlan

__all__ = ["CompressionPlan"]
