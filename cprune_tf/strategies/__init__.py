"""Strategies decide what is pruned next and whether it is kept.

Each strategy is one file. It subclasses `base.Strategy`, registers itself with its own config
(`registry.register_strategy`), and changes models through a `workbench.Workbench`, which all
strategies share.
"""
