"""Rows: where they come from, what they look like, which split they belong to."""
