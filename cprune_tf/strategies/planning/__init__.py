"""Plans the channel counts of all groups of a model at once, for a global strategy."""
