"""Tunesmith: an experiment-tracked workshop for fine-tuning language models."""
