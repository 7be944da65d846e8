"""Command lines: parse flags, call the package."""
