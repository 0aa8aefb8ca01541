"""Which base model to tune: candidates compared on the sanity set before anything is trained."""
