"""A runtime made of formulas: supports pricing, staircases and prediction without TVM."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib

from cprune_tf.devices import Latency
from cprune_tf.runtimes import Runtime, TaskCost

TILE = 8
CALL_MS = 0.5
WHOLE_FACTOR = 1.25


@dataclasses.dataclass(frozen=True)
class LayerCall:
    layers: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class LayerTask:
    name: str
    kind: str
    subgraphs: tuple[LayerCall, ...]
    flops: float
    argument_shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def key(self):
        return hash((self.kind, self.argument_shapes))

    @property
    def weight(self):
        return len(self.subgraphs)

    @property
    def layers(self):
        return tuple(layer for call in self.subgraphs for layer in call.layers)

    @property
    def latency_ms(self):
        """A staircase: inputs and outputs are rounded up to whole tiles."""
        _, (_, kernel), (_, result) = self.argument_shapes
        tiles = math.ceil(kernel[-2] / TILE) * math.ceil(kernel[-1] / TILE)
        return 0.01 * tiles * math.prod(kernel[:-2]) * math.prod(result[:-1])


@dataclasses.dataclass(frozen=True)
class LayerModel:
    tasks: tuple[LayerTask, ...]


class AnalyticRuntime(Runtime):
    """One task for each distinct Conv2D or Dense; whole models take a quarter and 0.5 ms more."""

    name = "analytic"
    suffix = ".json"
    lanes = TILE

    def __init__(self, device, options):
        super().__init__(device, options.precision, options.num_threads)
        self.measured = set()

    @classmethod
    def check(cls, model, frontend):
        pass

    @property
    def fingerprint(self):
        return {"runtime": str(self), "num_threads": self.num_threads}

    def prepare(self, model):
        import keras

        calls = {}
        for layer in model.layers:
            if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)):
                tensors = (layer.input.shape, layer.kernel.shape, layer.output.shape)
                # The only unknown extent is the batch, which becomes 1.
                shapes = tuple(("float32", tuple(size or 1 for size in shape)) for shape in tensors)
                key = (type(layer).__name__.lower(), shapes)
                calls.setdefault(key, []).append(LayerCall((layer.name,)))
        return LayerModel(
            tuple(
                LayerTask(f"{kind}#{number}", kind, tuple(subgraphs), _flops(shapes), shapes)
                for number, ((kind, shapes), subgraphs) in enumerate(calls.items())
            )
        )

    def tune(self, model, trials_per_task, progress=None):
        self.measured |= {task.key for task in model.tasks}

    def price(self, candidate, current, on_task=None):
        for task in candidate.tasks:
            if task.key not in self.measured and on_task is not None:
                on_task(task)
            self.measured.add(task.key)
        return self.tasks_ms(candidate)

    def tasks_ms(self, model):
        return sum(self.samples_ms(task)[0] * task.weight for task in model.tasks)

    def task_costs(self, model):
        whole_ms = self.tasks_ms(model)
        costs = [
            TaskCost(
                task,
                task.latency_ms,
                task.latency_ms * task.weight,
                task.latency_ms * task.weight / whole_ms,
                task.flops / task.latency_ms / 1e6,
                None,
            )
            for task in model.tasks
        ]
        return tuple(sorted(costs, key=lambda cost: -cost.total_ms))

    def samples_ms(self, task):
        if task.key not in self.measured:
            raise KeyError(f"{task.name} was never measured.")
        return (task.latency_ms,) * 3

    def filter_tiles(self, task, filters):
        return (TILE,) if task.argument_shapes[-1][1][-1] == filters else ()

    def build(self, model, path):
        whole_ms = self.tasks_ms(model) * WHOLE_FACTOR + CALL_MS
        pathlib.Path(path).write_text(json.dumps({"ms": whole_ms}))

    def time(self, paths, model, measure):
        builds = [json.loads(pathlib.Path(path).read_text()) for path in paths]
        return tuple(Latency.from_samples([build["ms"]] * 3, self.num_threads) for build in builds)

    def close(self):
        self.measured.clear()


def _flops(shapes):
    _, (_, kernel), (_, result) = shapes
    return 2.0 * math.prod(kernel) * math.prod(result[:-1])
