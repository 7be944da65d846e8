"""The search for fast programs, and what prices are made of."""
