"""Times models on a device against each other: interleaved, warmed up, until they are stable.

    python tools/benchmark.py --device=adb: --cores=big --models=final.so,final.tflite,model.keras

A .so is a TVM library as `tools/prune.py` writes it; a .keras file is converted and timed with
LiteRT. A run's folder deploy/ stands for the library in it that was made for --threads, and for its
model.tflite. Ratios are relative to the first model; an emulated device gives none. With
--benchmark_model, TensorFlow Lite's own tool (built for the device) times all models that LiteRT
runs a second time, afterwards.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Mapping, Sequence

from absl import flags

from cprune_tf import config as configs
from cprune_tf.cli import command_line, loading
from cprune_tf.devices import Latency, ModelFile, ToolLatency
from cprune_tf.storage import files

flags.adopt_module_key_flags(loading)
_METADATA = "metadata.json"
_DEVICE = flags.DEFINE_string("device", "local", "The device to run on; see tools/doctor.py.")
_MODELS = flags.DEFINE_list("models", None, "Files: .so, .tflite or .keras; or folders deploy/.")
_THREADS = flags.DEFINE_integer("threads", 1, "Number of threads of each model.", lower_bound=1)
_CORES = flags.DEFINE_string("cores", "", "big, middle, little or numbers like 4-7; default: all.")
_MAX_TIME_SEC = flags.DEFINE_float("max_time_sec", 2.0, "Longest running time of each model.")
_MAX_TEMPERATURE = flags.DEFINE_float(
    "max_temperature", 0.0, "°C above which to cool down (0: never)."
)
_BENCHMARK_MODEL = flags.DEFINE_string(
    "benchmark_model", None, "TensorFlow Lite's tool, built for the device: a second timing."
)
_JSON = flags.DEFINE_string("json", None, "Write the result here too.")


def run() -> None:
    """The entry point of `cprune-benchmark`."""
    flags.mark_flags_as_required(["models"])
    command_line.run_main(main)


def main(argv: Sequence[str]) -> None:
    """Times the models and prints one line for each."""
    del argv
    from cprune_tf.devices import open_device

    measure = configs.MeasureConfig(
        max_time_sec=_MAX_TIME_SEC.value,
        cores=_CORES.value,
        max_temperature_celsius=_MAX_TEMPERATURE.value,
    )
    measure.validate()
    tool = _BENCHMARK_MODEL.value
    if tool:
        command_line.existing_file("benchmark_model", tool)
    if _JSON.value:
        command_line.writable_file("json", _JSON.value)
    with tempfile.TemporaryDirectory() as directory:
        paths = [path for given in _MODELS.value for path in _files_of(given)]
        models = [_model_file(path, pathlib.Path(directory)) for path in paths]
        with open_device(_DEVICE.value, measure.cores) as device:
            info = device.info()
            print(info)
            latencies = device.time_models(models, _THREADS.value, measure)
            tool_latencies = {
                model.name: device.run_benchmark_model(tool, model.path, _THREADS.value, measure)
                for model in models
                if tool and model.runtime == "litert"
            }
    for model, latency in zip(models, latencies, strict=True):
        ratio = latency.median_ms / latencies[0].median_ms
        compared = "" if info.emulated else f"  {ratio:.3f} x the first"
        print(f"{model.name} [{model.runtime}]: {latency}{compared}")
        if model.name in tool_latencies:
            print(f"{model.name} [benchmark_model]: {tool_latencies[model.name]}")
    if _JSON.value:
        _write_json(models, latencies, tool_latencies, info.to_json())


def _files_of(given: str) -> list[str]:
    """Returns a file as it is; of a folder for deployment, what runs with this many threads."""
    folder = pathlib.Path(given)
    if not folder.is_dir():
        return [given]
    if not (folder / _METADATA).is_file():
        raise command_line.UsageError(
            f"--models: the folder {given!r} holds no {_METADATA}; expected a file, or the folder "
            "deploy/ of a run."
        )
    metadata = json.loads((folder / _METADATA).read_text(encoding="utf-8"))
    libraries = {one["num_threads"]: one["file"] for one in metadata.get("libraries", ())}
    if libraries and _THREADS.value not in libraries:
        raise command_line.UsageError(
            f"--threads is {_THREADS.value}, but the libraries in {given!r} were made for "
            f"{' and '.join(map(str, libraries))}; expected one of these numbers."
        )
    names = [libraries[_THREADS.value]] if libraries else []
    return [str(folder / name) for name in (*names, "model.tflite")]


def _model_file(path: str, directory: pathlib.Path) -> ModelFile:
    suffix = command_line.existing_file("models", path).suffix
    if suffix in (".so", ".tflite"):
        return ModelFile(path, "tvm" if suffix == ".so" else "litert", path)
    if suffix not in (".keras", ".h5"):
        raise command_line.UsageError(
            f"--models: {path!r} ends in {suffix!r}; expected .so, .tflite or .keras."
        )
    command_line.import_tensorflow_quietly()
    from cprune_tf import litert

    converted = directory / f"{pathlib.Path(path).stem}.tflite"
    converted.write_bytes(litert.convert(loading.load(path)))
    return ModelFile(path, "litert", str(converted))


def _write_json(
    models: Sequence[ModelFile],
    latencies: Sequence[Latency],
    tool_latencies: Mapping[str, ToolLatency],
    device: dict[str, object],
) -> None:
    results = [
        {"model": model.name, "runtime": model.runtime, **latency.to_json()}
        for model, latency in zip(models, latencies, strict=True)
    ]
    content: dict[str, object] = {"device": device, "results": results}
    if tool_latencies:
        content["benchmark_model"] = {
            name: dataclasses.asdict(latency) for name, latency in tool_latencies.items()
        }
    files.write_json(pathlib.Path(_JSON.value), content)


if __name__ == "__main__":
    run()
