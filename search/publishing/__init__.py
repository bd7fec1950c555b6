"""Where results go: an MLflow store, or nowhere."""
