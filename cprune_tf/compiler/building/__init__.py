"""Turns lowered and scheduled modules into shared libraries."""
