"""What all strategies share: the loop, and drafts, prices, measurements, training, acceptance."""

from __future__ import annotations

from cprune_tf.strategies.workbench.bench import Workbench
from cprune_tf.strategies.workbench.current_model import CurrentModel
from cprune_tf.strategies.workbench.hooks import Hooks
from cprune_tf.strategies.workbench.loop import run_strategy
from cprune_tf.strategies.workbench.targets import Target

__all__ = ["CurrentModel", "Hooks", "Target", "Workbench", "run_strategy"]
