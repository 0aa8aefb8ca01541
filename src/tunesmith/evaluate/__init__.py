"""Scoring a live model with the lm-eval harness, and telling what the scores mean."""
