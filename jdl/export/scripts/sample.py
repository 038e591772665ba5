"""Rows of an exported generative model, as samples.npy: python predict.py COUNT [SEED].

It needs jax, numpy, safetensors and flatbuffers alone, or onnxruntime and numpy where the program
is ONNX.
"""

import json
import sys
from pathlib import Path

import numpy as np


def open_program(folder, about):
    """A function of arrays by name, by JAX or by ONNX Runtime as the manifest's file has it."""
    path = folder / about["file"]
    if path.suffix == ".onnx":
        import onnxruntime

        onnxruntime.set_default_logger_severity(3)  # errors alone
        session = onnxruntime.InferenceSession(str(path))
        names = about["outputs"]
        return lambda inputs: dict(zip(names, session.run(None, inputs), strict=True))
    import jax
    import jax.export
    from safetensors.numpy import load_file

    weights = load_file(folder / "weights.safetensors")
    weights = jax.device_put({name: weights[name] for name in about["weights"]})
    call = jax.jit(jax.export.deserialize(bytearray(path.read_bytes())).call)
    return lambda inputs: call(weights, inputs)


def load(folder, name="generate"):
    """The manifest, and a program: a function of arrays by name that gives such."""
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    return manifest, open_program(folder, manifest["programs"][name])


def columns(inputs, count, seed):
    """Latents z of the standard normal distribution, the classes y in turn, and the seed.

    Any other column is zeros, as `jdl sample` has it: give the values of what you want to sample.
    """
    found = {
        name: np.zeros((count, *about["shape"][1:]), about["dtype"])
        for name, about in inputs.items()
        if name != "seed"
    }
    found["z"] = np.random.default_rng(seed).standard_normal(found["z"].shape, np.float32)
    if "range" in inputs.get("y", {}):
        found["y"] = np.arange(count).astype(found["y"].dtype) % (inputs["y"]["range"][1] + 1)
    if "seed" in inputs:
        found["seed"] = np.asarray(seed, np.int32)
    return found


def main(count="16", seed="0"):
    """Writes the rows."""
    manifest, generate = load(Path(__file__).parent)
    inputs = manifest["programs"]["generate"]["inputs"]
    x = generate(columns(inputs, int(count), int(seed)))["x"]
    np.save("samples.npy", np.asarray(x))
    print(f"samples.npy: {x.shape}")


if __name__ == "__main__":
    main(*sys.argv[1:])
