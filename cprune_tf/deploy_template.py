"""Runs the pruned model in this folder on one input, with TVM or LiteRT.

python run.py                      runs a random input
python run.py image.npy            runs a preprocessed input, saved by numpy
python run.py image.npy litert     runs that input with LiteRT

Without "litert", TVM runs model.so if it is in this folder; otherwise, LiteRT runs model.tflite.
"""

import json
import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent


def run_tvm(array: np.ndarray) -> np.ndarray:
    """Returns the output of model.so for one input; needs `pip install apache-tvm`."""
    import tvm
    from tvm import relax

    kind = json.loads((HERE / "metadata.json").read_text())["target"]["kind"]
    device = tvm.cpu() if kind == "llvm" else tvm.device(kind)
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(HERE / "model.so")), device)
    return machine["main"](tvm.runtime.tensor(array, device=device)).numpy()


def run_litert(array: np.ndarray) -> np.ndarray:
    """Returns the output of model.tflite for one input; needs `pip install ai-edge-litert`."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(HERE / "model.tflite"))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], array)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def main() -> None:
    """Reads the input, runs the model and prints the output."""
    input_spec = json.loads((HERE / "metadata.json").read_text())["inputs"][0]
    if len(sys.argv) > 1:
        array = np.load(sys.argv[1]).astype(input_spec["dtype"]).reshape(input_spec["shape"])
    else:
        array = np.random.default_rng(0).random(input_spec["shape"]).astype(input_spec["dtype"])
    has_library = (HERE / "model.so").exists()
    run = run_litert if sys.argv[2:] == ["litert"] or not has_library else run_tvm
    print(run(array))


if __name__ == "__main__":
    main()
