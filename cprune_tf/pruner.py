"""One noun for everything: a model on a device, to inspect, profile, prune and export."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cprune_tf import api
from cprune_tf import config as configs
from cprune_tf.config.shapes import InputShape, with_input_shape
from cprune_tf.opening import opened_device

if TYPE_CHECKING:
    import keras

    from cprune_tf.data import ImageData
    from cprune_tf.devices import Device
    from cprune_tf.graph import ChannelGraph, ModelStatistics
    from cprune_tf.latency.profile import ModelProfile

_PARTS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What can be pruned in a model, without any measurement.

    Attributes:
        channels: The channel groups; `channels.prunable` are those that may lose filters, and
            `protected` of each other one says why it may not.
        statistics: Parameters, MACs and bytes of every layer.
    """

    channels: ChannelGraph
    statistics: ModelStatistics


class Pruner:
    """A Keras model with its data and a device.

    Everything is kept in a folder: what `profile` tunes, `prune` does not tune again, and a run
    that was interrupted goes on when `prune` is called again with the same arguments.

    Args:
        model: A functional or Sequential Keras 3 model, or the path or the embedded name of one.
        data: (train, validation) or (train, validation, test), each as `model.fit` takes it; see
            `cprune_tf.prune`. Or an `ImageData`. None: the data that config.data names.
        device: A device's name (see open_device), or an open Device, which stays open.
        config: All other settings; missing fields keep their defaults.
        input_shape: Sizes for a model that takes any; see `cprune_tf.prune`.
        workdir: The folder; None: a new temporary one, which is kept.

    Raises:
        ConfigError: If the config or the data's form is invalid.
        GraphError: If the model has no graph of layers, or input_shape does not fit it.
        ModelError: If the model cannot be read.
    """

    def __init__(
        self,
        model: keras.Model | str | os.PathLike[str],
        data: ImageData | tuple[Any, ...] | None = None,
        *,
        device: str | Device = "local",
        config: configs.PruneConfig | Mapping[str, Any] | None = None,
        input_shape: InputShape | None = None,
        workdir: str | os.PathLike[str] | None = None,
    ) -> None:
        given = (
            config
            if isinstance(config, configs.PruneConfig)
            else configs.from_mapping(dict(config or {}))
        )
        self.config = with_input_shape(given, input_shape).validate()
        self.device = device
        self._data = _named(data)
        self._model_or_path = model
        self.workdir = pathlib.Path(workdir or tempfile.mkdtemp(prefix="cprune_pruner_"))
        self.model: keras.Model = _loaded(model, self.config)
        self.result: api.PruneResult | None = None

    def inspect(self) -> Inspection:
        """Finds the channel groups and counts parameters and MACs; takes seconds.

        Raises:
            GraphError: If the model has no graph of layers, e.g. a subclassed model.
        """
        from cprune_tf import graph

        twin = graph.functional_twin(self.model)
        return Inspection(graph.analyze(twin, self.config.protect), graph.statistics(twin))

    def profile(self) -> ModelProfile:
        """Tunes the model, where the runtime tunes, and measures where its latency lies.

        Returns:
            Its tasks, the costliest first, with their layers and channel groups.

        Raises:
            UnsupportedOperationError: If the runtime cannot run one of the model's operations.
            DeviceError: If the device fails.
        """
        from cprune_tf.compiler.roofline import measure_roofline
        from cprune_tf.latency.profile import profile_model
        from cprune_tf.latency.workspace import open_as_configured

        config = self._with_shared_programs()
        measure = config.measure
        with (
            self._opened() as device,
            open_as_configured(self.model, device, self.workdir / "profile", config) as opened,
        ):
            opened.tune(config.tuning.trials_per_task)
            roofline = None
            if config.runtime == "tvm" and opened.device.accelerator() is None:
                roofline = measure_roofline(opened.device, measure.num_threads)
            return profile_model(opened, roofline, measure)

    def prune(
        self,
        *,
        target_speedup: float | None = None,
        target_latency_ms: float | None = None,
        max_accuracy_drop: float | None = None,
        strategy: str | None = None,
        **functions: Any,
    ) -> api.PruneResult:
        """Prunes the model; an interrupted run with the same arguments goes on.

        Args:
            target_speedup: The result shall be this many times as fast; None: as in the config.
            target_latency_ms: The result shall take no more than this; None: as in the config.
            max_accuracy_drop: What the result may lose, as a fraction: 0.01 is one point; None: as
                in the config.
            strategy: The strategy's name; None: as in the config.
            **functions: short_term_train, long_term_train, evaluate, sparsifier and console of
                `cprune_tf.prune`.

        Returns:
            The pruned model, the decisions and the report.

        Raises:
            ConfigError: See `cprune_tf.prune`, which raises further errors.
        """
        given = {
            "target_speedup": target_speedup,
            "target_latency_ms": target_latency_ms,
            "max_accuracy_drop": max_accuracy_drop,
            "name": strategy,
        }
        config = self._with_shared_programs()
        changes: dict[str, Any] = {name: one for name, one in given.items() if one is not None}
        strategy_config = dataclasses.replace(config.strategy, **changes)
        config = dataclasses.replace(config, strategy=strategy_config)
        root = self.workdir / "run"
        self.result = api.prune(
            self._model_or_path,
            **self._data,
            device=self.device,
            config=config,
            workdir=root,
            resume=root.exists(),
            **functions,
        )
        return self.result

    def export(
        self, directory: str | os.PathLike[str], *, point: int | None = None
    ) -> pathlib.Path:
        """Writes the result for deployment, or another model of the run's front.

        Args:
            directory: The folder to write to; made if missing.
            point: The number of an accepted model, 0 for the original; None: the result, with the
                report and everything that a device needs.

        Returns:
            The folder.

        Raises:
            ConfigError: If nothing was pruned yet.
            FrontError: If there is no such point.
            FileExistsError: If a file of the result exists already.
        """
        if self.result is None:
            raise configs.ConfigError(
                "There is nothing to export: prune() has not ended in this process; expected to "
                "be called after it. tools/export.py exports models of an earlier run."
            )
        if point is None:
            return self.result.save(directory)
        from cprune_tf.front import export_point

        original = _loaded(self._model_or_path, self.config)
        export_point(self.result.workdir, point, pathlib.Path(directory), original=original)
        return pathlib.Path(directory)

    def _with_shared_programs(self) -> configs.PruneConfig:
        """The config, with a folder of measured programs that profile and prune share."""
        if self.config.tuning.database:
            return self.config
        shared = dataclasses.replace(self.config.tuning, database=str(self.workdir / "programs"))
        return dataclasses.replace(self.config, tuning=shared)

    def _opened(self) -> contextlib.AbstractContextManager[Device]:
        return opened_device(self.device, self.config.measure.cores)


def _named(data: ImageData | tuple[Any, ...] | None) -> dict[str, Any]:
    """Returns the data as arguments of `prune`."""
    if data is None:
        return {}
    if not isinstance(data, tuple):
        return {"train_data": data}
    if len(data) not in (2, 3) or all(hasattr(part, "shape") for part in data):
        kinds = ", ".join(type(part).__name__ for part in data)
        raise configs.ConfigError(
            f"data is ({kinds}); expected (train, validation) or (train, validation, test), each a "
            "data set or a pair (images, labels)."
        )
    return {f"{name}_data": part for name, part in zip(_PARTS, data, strict=False)}


def _loaded(model: Any, config: configs.PruneConfig) -> keras.Model:
    from cprune_tf import models

    if isinstance(model, (str, os.PathLike)):
        model = models.load_model(os.fspath(model), unsafe_lambda=config.unsafe_lambda)
    return models.with_fixed_inputs(model, config.input_shape)[0]
