"""The search: a coordinator that owns the study, and workers that train and score."""
