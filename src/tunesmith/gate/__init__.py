"""The gate: from per-item results on the holdout to a verdict. Pure."""
