"""Runs the pruned model in this folder on one input, with TVM or LiteRT.

python run.py                        runs a random input
python run.py image.npy              runs a preprocessed input, saved by numpy
python run.py image.npy litert       runs that input with LiteRT
python run.py image.npy vector.npy   runs a model with two inputs, in the order of metadata.json
python run.py image.npy --threads=4  runs the library that was made for 4 threads, or LiteRT on 4

Without "litert", TVM runs model.so if it is in this folder; otherwise, LiteRT runs model.tflite.
"""

import json
import os
import pathlib
import sys
from typing import Any

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent


def run_tvm(arrays: list, num_threads: int) -> list:
    """Returns the outputs of the library for so many threads; needs `pip install apache-tvm`.

    0 threads: the first library's number.
    """
    metadata = json.loads((HERE / "metadata.json").read_text())
    libraries = {one["num_threads"]: one["file"] for one in metadata["libraries"]}
    num_threads = num_threads or next(iter(libraries))
    if num_threads not in libraries:
        known = ", ".join(map(str, libraries))
        sys.exit(f"--threads is {num_threads}; expected a number that a library is for: {known}.")
    os.environ["TVM_NUM_THREADS"] = str(num_threads)  # TVM reads it when it is loaded

    import tvm
    from tvm import relax

    kind = metadata["target"]["kind"]
    device = tvm.cpu() if kind == "llvm" else tvm.device(kind)
    machine = relax.VirtualMachine(
        tvm.runtime.load_module(str(HERE / libraries[num_threads])), device
    )
    result = machine["main"](*(tvm.runtime.tensor(array, device=device) for array in arrays))
    return [one.numpy() for one in ([result] if hasattr(result, "numpy") else result)]


def run_litert(arrays: list, num_threads: int) -> list:
    """Returns the outputs of model.tflite for one input; needs `pip install ai-edge-litert`."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(
        model_path=str(HERE / "model.tflite"), num_threads=num_threads or None
    )
    interpreter.allocate_tensors()
    inputs, outputs = tensors(interpreter)
    for index, array in zip(inputs, arrays, strict=True):
        interpreter.set_tensor(index, array)
    interpreter.invoke()
    return [interpreter.get_tensor(index) for index in outputs]


def tensors(interpreter: Any) -> tuple:
    """Returns the numbers of the inputs' and outputs' tensors, in the model's order.

    They are named in this order, input_00, input_01, ..., but need not lie in it.
    """
    runner = interpreter.get_signature_runner()
    both = runner.get_input_details(), runner.get_output_details()
    return tuple([details[name]["index"] for name in sorted(details)] for details in both)


def random_input(spec: dict) -> np.ndarray:
    """Returns numbers of 0..1; or pixels, or 0 for larger integers, which may be indices."""
    kind = np.dtype(spec["dtype"])
    if kind.kind in "iu":
        high = np.iinfo(kind).max if kind.itemsize == 1 else 0
        return np.random.default_rng(0).integers(0, high, spec["shape"], endpoint=True)
    return np.random.default_rng(0).random(spec["shape"])


def in_type(array: np.ndarray, name: str) -> np.ndarray:
    """Converts an array; for a model that takes integers, numbers become the nearest ones."""
    kind = np.dtype(name)
    if kind.kind in "iu" and array.dtype.kind == "f":
        array = np.clip(np.rint(array), np.iinfo(kind).min, np.iinfo(kind).max)
    return array.astype(kind)


def chosen_threads() -> int:
    """Returns the number of --threads=...; 0 without it."""
    given = [word.partition("=")[2] for word in sys.argv[1:] if word.startswith("--threads=")]
    if not given:
        return 0
    if not given[-1].isdecimal() or int(given[-1]) < 1:
        sys.exit(f"--threads is {given[-1]!r}; expected a positive number.")
    return int(given[-1])


def main() -> None:
    """Reads the inputs, runs the model and prints the outputs."""
    metadata = json.loads((HERE / "metadata.json").read_text())
    specs = metadata["inputs"]
    words = [word for word in sys.argv[1:] if not word.startswith("--threads=")]
    arguments = [word for word in words if word not in ("tvm", "litert")]
    if len(arguments) not in (0, len(specs)):
        names = ", ".join(spec["name"] for spec in specs)
        sys.exit(f"Received {len(arguments)} files; expected one for each input: {names}.")
    if arguments:
        read = [np.load(path) for path in arguments]
    else:
        read = [random_input(spec) for spec in specs]
    arrays = [
        in_type(array, spec["dtype"]).reshape(spec["shape"])
        for array, spec in zip(read, specs, strict=True)
    ]
    has_library = (HERE / "model.so").exists()
    run = run_litert if "litert" in words or not has_library else run_tvm
    outputs = run(arrays, chosen_threads())
    for spec, output in zip(metadata["outputs"], outputs, strict=True):
        if len(metadata["outputs"]) > 1:
            print(f"{spec['name']}, {'x'.join(map(str, output.shape))}:")
        print(output)


if __name__ == "__main__":
    main()
