"""Runnable comparisons; their dated results lie in `results/`."""
