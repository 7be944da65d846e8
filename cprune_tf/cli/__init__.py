"""Command lines, which parse flags and call the package."""
