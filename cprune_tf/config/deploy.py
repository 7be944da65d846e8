"""The configuration of the folder that is copied to a device."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class DeployConfig:
    """What `deploy/` holds beside the files that are always there; see docs/deploy.md.

    Attributes:
        pixel_input: Whether `model_pixels.tflite` is written too, which takes uint8 pixels and
            preprocesses them itself, as `config.data.mean` and `config.data.std` say.
    """

    pixel_input: bool = False

    def validate(self) -> None:
        """Raises ConfigError if a field is invalid; each value is valid."""
