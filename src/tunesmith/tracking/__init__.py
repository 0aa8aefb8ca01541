"""MLflow: the store, the tree of runs and what is logged to it."""
