"""Strategies: which filters to try, and whether to keep what came out."""
