"""Accuracy, bytes and CPU-milliseconds of a trained classifier in fewer bits.

scripts/bench quantization runs/NAME/DIGEST/SEED: the run's model on its test rows, in float32 and
bfloat16, with weights in 8 and 4 bits, and with calibrated activations in 8 bits, whose products
are int8 x int8. The time is the median CPU time of a batch of the test rows, the kinds in turn.
"""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

import jdl
from jdl.objectives import calibrate, predict_all, quantize_variables

ROUNDS, CALIBRATION = 20, 4  # timed evaluations of a batch; batches of training rows


def main(folder: str) -> None:
    """Prints a row for each kind."""
    trained = jdl.restore(folder)
    objective, variables = trained.run.learner.objective, trained.variables
    test, train = trained.run.test, trained.run.train
    assert test is not None
    matrices = flatten_dict({"params": variables["params"]}, sep="/")
    even = [path for path, x in matrices.items() if x.ndim > 1 and x.shape[-2] % 2 == 0]
    of_4_bits = "|".join(f"^{path}$" for path in even)
    halves = jax.tree.map(lambda x: x.astype(jnp.bfloat16), variables["params"])
    some = (train[i] for i in range(CALIBRATION))
    ranges = calibrate(objective, variables, some, "kernel")
    kinds = {
        "float32": (objective, variables),
        "bfloat16": (objective, {**variables, "params": halves}),
        "int8 weights": (
            jdl.quantize(objective, "kernel"),
            quantize_variables(variables, "kernel"),
        ),
        "int4 weights": (
            jdl.quantize(objective, of_4_bits, bits=4),
            quantize_variables(variables, of_4_bits, bits=4),
        ),
        "int8 weights and activations": (
            jdl.quantize(objective, "kernel", activations=True),
            quantize_variables(ranges, "kernel"),
        ),
    }
    milliseconds = time_in_turn(kinds, test[0])
    for name, (of_kind, small) in kinds.items():
        found = predict_all(of_kind, small, test, ["y"])
        accuracy = (found["label"] == found["y"]).mean()
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(small))
        print(f"{name:<29} {accuracy:.4f} {size / 1e3:9,.1f} kB {milliseconds[name]:7.1f} CPU-ms")


def time_in_turn(kinds, batch):
    """The median CPU-milliseconds of a batch's predictions, by kind."""
    functions = {name: (jax.jit(one.predict), small) for name, (one, small) in kinds.items()}
    taken = {name: [] for name in kinds}
    for _ in range(1 + ROUNDS):
        for name, (predict, small) in functions.items():
            start = time.process_time()
            jax.block_until_ready(predict(small, batch))
            taken[name].append(1e3 * (time.process_time() - start))
    return {name: float(np.median(times[1:])) for name, times in taken.items()}


if __name__ == "__main__":
    main(sys.argv[1])
