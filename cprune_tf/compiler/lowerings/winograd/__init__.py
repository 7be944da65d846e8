"""Winograd's minimal filtering: the convolution and how it is scheduled."""
