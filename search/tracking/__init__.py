"""Where results go: an MLflow store, or nowhere."""

from search.tracking.mlflow import MlflowTracker, resolve_tracking_uri
from search.tracking.tracker import NullTracker, Tracker

__all__ = ["MlflowTracker", "NullTracker", "Tracker", "resolve_tracking_uri"]
