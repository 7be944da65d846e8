"""Runs the pruned model in this folder on one input, with TVM or LiteRT.

python run.py                      random input, TVM
python run.py image.npy            a preprocessed input, saved by numpy
python run.py image.npy litert     the same with LiteRT
"""

import json
import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent


def run_tvm(array: np.ndarray) -> np.ndarray:
    """The outputs of model.so for one input; needs `pip install apache-tvm`."""
    import tvm
    from tvm import relax

    kind = json.loads((HERE / "metadata.json").read_text())["target"]["kind"]
    device = tvm.cpu() if kind == "llvm" else tvm.device(kind)
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(HERE / "model.so")), device)
    return machine["main"](tvm.runtime.tensor(array, device=device)).numpy()


def run_litert(array: np.ndarray) -> np.ndarray:
    """The outputs of model.tflite for one input; needs `pip install ai-edge-litert`."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(HERE / "model.tflite"))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], array)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def main() -> None:
    """Reads the input, runs the model and prints what came out."""
    described = json.loads((HERE / "metadata.json").read_text())["inputs"][0]
    if len(sys.argv) > 1:
        array = np.load(sys.argv[1]).astype(described["dtype"]).reshape(described["shape"])
    else:
        array = np.random.default_rng(0).random(described["shape"]).astype(described["dtype"])
    run = run_litert if sys.argv[2:] == ["litert"] else run_tvm
    print(run(array))


if __name__ == "__main__":
    main()
