"""Training, evaluation, and re-estimation of batch normalisation."""

from cprune_tf.training.batch_norm import recalibrate_batch_norm
from cprune_tf.training.errors import TrainingError
from cprune_tf.training.evaluation import evaluate
from cprune_tf.training.trainer import EpochResult, FitResult, fit

__all__ = [
    "EpochResult",
    "FitResult",
    "TrainingError",
    "evaluate",
    "fit",
    "recalibrate_batch_norm",
]
