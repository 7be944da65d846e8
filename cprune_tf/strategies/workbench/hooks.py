"""The functions that train and evaluate models, and how an evaluation is compared with the gate."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cprune_tf.accuracy import (
    TOP1,
    Evaluation,
    Hits,
    Metric,
    PairedDifference,
    RefusalTest,
    pack_hits,
    unpack_hits,
)
from cprune_tf.runs import events

if typing.TYPE_CHECKING:
    from cprune_tf.sparse import SparseKernel
    from cprune_tf.training.pattern_training import Projected, TowardsPatterns


class PatternTraining(Protocol):
    """Trains pattern-sparse models in place."""

    def train_patterns(self, model: Any, towards: TowardsPatterns) -> Projected:
        """Trains all weights towards patterns, and projects them; see `training.hooks.Trainer`."""

    def short_term_train(self, model: Any, kept: Mapping[str, SparseKernel]) -> None:
        """As `Hooks.short_term_train`, with the zeros of a projected model kept."""

    def long_term_train(self, model: Any, kept: Mapping[str, SparseKernel]) -> None:
        """As `Hooks.long_term_train`, with the zeros of a projected model kept."""


EvaluateBatches = Callable[[Any, npt.NDArray[np.integer[Any]] | None], Iterator[Hits]]


@dataclasses.dataclass(frozen=True)
class Hooks:
    """The functions that train and evaluate models: the caller's own or the defaults.

    Attributes:
        short_term_train: Trains a candidate in place.
        long_term_train: Trains the final model in place.
        evaluate: Returns a model's accuracy, 0..1, or its score by another metric.
        sample: Returns batches of labelled training images, for importance and sensitivity.
        evaluate_batches: Called with a model and the order of the images (None: as they are),
            yields which images of each batch it classifies right; the same accuracy as `evaluate`.
            None if `evaluate` is the caller's own, or of a metric that does not judge images one by
            one: it is run whole.
        evaluate_deployed: As evaluate_batches, of the file that would be deployed. With it, all
            models but the original are judged by their files. None: a model computes the same
            outputs where it is deployed.
        score_deployed: The same in place of `evaluate`, where evaluate_batches is None.
        soft_start: Trains a model in place with a penalty, for so many epochs; None where the
            caller's own functions or optimizer train, which know of no penalty.
        short_term_train_all: Trains models in place, side by side, as short_term_train does;
            yields the position of each when it is trained. None: they are trained one by one.
        metric: What the scores are.
        train_one_step: Trains a model in place for one batch, as long_term_train would begin; None:
            the caller's own function trains, which nothing can shorten.
        patterns: Trains pattern-sparse models; None where the caller's own functions or optimizer
            train, which know of no zeros.
    """

    short_term_train: Callable[[Any], None]
    long_term_train: Callable[[Any], None]
    evaluate: Callable[[Any], float]
    sample: Callable[[], Any]
    evaluate_batches: EvaluateBatches | None = None
    evaluate_deployed: EvaluateBatches | None = None
    score_deployed: Callable[[Any], float] | None = None
    soft_start: Callable[[Any, Any, int], None] | None = None
    short_term_train_all: Callable[[Sequence[Any]], Iterator[int]] | None = None
    metric: Metric = TOP1
    train_one_step: Callable[[Any], None] | None = None
    patterns: PatternTraining | None = None

    @property
    def judges_files(self) -> bool:
        """Whether models are judged by the files that would be deployed."""
        return self.evaluate_deployed is not None or self.score_deployed is not None

    def evaluate_original(self, model: Any) -> events.Evaluated:
        """Evaluates the original model, with which all others are compared.

        Args:
            model: The original.

        Returns:
            The event, not journalled.
        """
        if self.evaluate_batches is None:
            return events.Evaluated(float(self.evaluate(model)))
        hits = np.concatenate(list(self.evaluate_batches(model, None)))
        accuracy = int(np.count_nonzero(hits)) / len(hits)
        return events.Evaluated(accuracy, len(hits), pack_hits(hits))

    def evaluate_against(
        self,
        original: events.Evaluated | None,
        model: Any,
        *,
        least: float = 0.0,
        error_rate: float = 0.0,
        seed: tuple[int, ...] = (0,),
    ) -> Evaluation:
        """Evaluates a model and compares it with the original, image by image.

        Args:
            original: The original's evaluation; None if it was not evaluated.
            model: The model.
            least: The accuracy (0..1) that the model must have.
            error_rate: The evaluation ends as soon as the model is known to miss `least` but for
                this probability (0..1); 0: all images are evaluated.
            seed: Of the order in which the images are evaluated.

        Returns:
            The accuracy. If the evaluation ended early, it is not whole, and the model is refused.
        """
        if self.evaluate_batches is None or original is None or not original.hits:
            return Evaluation(float((self.score_deployed or self.evaluate)(model)))
        known = unpack_hits(original.hits, original.num_images)
        # Images may be sorted by their class.
        order = np.random.default_rng(seed).permutation(len(known))
        test = RefusalTest(known[order], least, error_rate)
        batches = []
        for hits in (self.evaluate_deployed or self.evaluate_batches)(model, order):
            batches.append(hits)
            if test.refuses(hits):
                break
        found = np.concatenate(batches)
        paired = PairedDifference.of(found, known[order[: len(found)]])
        # The quotient is exactly 1 if all images were evaluated.
        more = (paired.gained - paired.lost) * (len(known) / len(found))
        accuracy = (int(np.count_nonzero(known)) + more) / len(known)
        return Evaluation(accuracy, paired, len(known))
