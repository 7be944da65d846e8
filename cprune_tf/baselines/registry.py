"""The contenders that a comparison can name beside the strategies."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping

if typing.TYPE_CHECKING:
    from cprune_tf.baselines.tfmot.sparsifier import TfmotSparsifier
    from cprune_tf.config import PruneConfig


@dataclasses.dataclass(frozen=True)
class TfmotContender:
    """Magnitude pruning by TFMOT.

    Attributes:
        pattern: "unstructured" or "2:4"; see `tfmot.sparsifier`.
    """

    pattern: str

    def require_packages(self) -> None:
        """Raises TfmotError, with the command that installs it, unless TFMOT is installed."""
        from cprune_tf.baselines.tfmot.running import require_packages

        require_packages()

    def sparsifier(self, config: PruneConfig) -> TfmotSparsifier:
        """Returns what sets weights to zero in a run with a config."""
        from cprune_tf.baselines.tfmot.sparsifier import TfmotSparsifier

        return TfmotSparsifier(config, self.pattern)


CONTENDERS: Mapping[str, TfmotContender] = {
    "tfmot_2_4": TfmotContender("2:4"),
    "tfmot_magnitude": TfmotContender("unstructured"),
}
