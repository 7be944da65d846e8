"""The configuration of the baseline TFMOT (`tools/compare.py --strategies=tfmot_magnitude`)."""

from __future__ import annotations

import dataclasses

from cprune_tf.config.checks import require


@dataclasses.dataclass(frozen=True)
class TfmotConfig:
    """How TensorFlow Model Optimization prunes weights; needs `pip install "cprune_tf[tfmot]"`.

    Attributes:
        sparsity: The fraction (0..1) of each kernel's weights that `tfmot_magnitude` sets to zero;
            `tfmot_2_4` always sets half of them to zero.
        ramp: The fraction (0..1) of the training in which the number of zeros rises to that; in the
            rest, the same weights stay zero.
    """

    sparsity: float = 0.8
    ramp: float = 0.5

    def validate(self) -> None:
        """Raises ConfigError if a field is invalid."""
        sparsity, ramp = self.sparsity, self.ramp
        require(0 < sparsity < 1, "tfmot.sparsity", sparsity, "a number in (0, 1)")
        require(0 < ramp <= 1, "tfmot.ramp", ramp, "a number in (0, 1]")
