"""What accuracies on a limited number of images can tell: paired errors, gates, early refusals."""

from __future__ import annotations

from cprune_tf.accuracy.gate import AccuracyGate, Evaluation
from cprune_tf.accuracy.hits import RANKS, Hits, pack_hits, unpack_hits
from cprune_tf.accuracy.metric import TOP1, Metric, capitalized
from cprune_tf.accuracy.paired import PairedDifference
from cprune_tf.accuracy.refusal import RefusalTest

__all__ = [
    "RANKS",
    "TOP1",
    "AccuracyGate",
    "Evaluation",
    "Hits",
    "Metric",
    "PairedDifference",
    "RefusalTest",
    "capitalized",
    "pack_hits",
    "unpack_hits",
]
