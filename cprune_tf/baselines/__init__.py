"""What other tools do to the same model: contenders of a comparison that remove no filters.

Each tool runs in a process of its own, so none of its packages is imported here.
"""
