"""A sweep against what people do today: Optuna around TRL."""
