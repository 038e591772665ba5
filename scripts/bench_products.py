"""The parts of the GPT of `scripts/bench peers` in XLA and in PyTorch: why it is slower on a CPU.

A matrix product, the gradients of its two factors, and causal attention forward and backward, each
alone; medians of 15, in ms. Each library is a process of its own, one after the other.

    scripts/bench products [PYTHON]

PYTHON is an interpreter that has torch; without it, this one.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
from bench_peers import HEADS, LENGTH, WIDTH

ROWS, BATCH, REPEATS = 32 * LENGTH, 32, 15
RNG = np.random.default_rng(0)
MATRICES = ((WIDTH, 3 * WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH))  # inputs, outputs
Parts = dict[str, Callable[[], object]]


def random(*shape: int) -> np.ndarray:
    """Normal numbers."""
    return RNG.standard_normal(shape, np.float32)


def of_torch() -> Parts:
    """Each part in PyTorch."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    parts: Parts = {}
    for inputs, outputs in MATRICES:
        arrays = (random(ROWS, inputs), random(ROWS, outputs), random(inputs, outputs))
        x, dy, w = map(torch.from_numpy, arrays)
        parts |= products(f"{inputs} x {outputs}", x, dy, w, lambda f, *args: lambda: f(*args))
    q = torch.from_numpy(random(BATCH, HEADS, LENGTH, WIDTH // HEADS)).requires_grad_()

    def attention() -> None:
        q.grad = None
        scaled_dot_product_attention(q, q, q, is_causal=True).sum().backward()

    return {**parts, "attention": attention}


def of_xla() -> Parts:
    """Each part in JAX, with the thread pool that jdl has."""
    import jax

    from jdl.layers.attention import attention
    from jdl.train.thread_pool import fix_thread_pool_size

    fix_thread_pool_size()

    def call(f: Callable, *args) -> Callable[[], object]:
        compiled = jax.jit(f)
        return lambda: compiled(*args).block_until_ready()

    parts: Parts = {}
    for inputs, outputs in MATRICES:
        arrays = (random(ROWS, inputs), random(ROWS, outputs), random(inputs, outputs))
        parts |= products(f"{inputs} x {outputs}", *map(jax.numpy.asarray, arrays), call)
    q = jax.numpy.asarray(random(BATCH, LENGTH, HEADS, WIDTH // HEADS))
    gradient = jax.grad(lambda q: attention(q, q, q, causal=True).sum())
    return {**parts, "attention": call(gradient, q)}


def products(name: str, x, dy, w, call: Callable) -> Parts:
    """x w and what its gradients are."""
    return {
        f"{name}, product": call(lambda x, w: x @ w, x, w),
        f"{name}, gradient of x": call(lambda dy, w: dy @ w.T, dy, w),
        f"{name}, gradient of w": call(lambda x, dy: x.T @ dy, x, dy),
    }


def ms(part: Callable[[], object]) -> float:
    """The median of some calls."""
    part()
    taken = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        part()
        taken.append(time.perf_counter() - began)
    return 1e3 * statistics.median(taken)


def main() -> None:
    """Prints a line a part and library; given a library's name, only its lines."""
    libraries = {"xla": of_xla, "torch": of_torch}
    if sys.argv[1:2] and sys.argv[1] in libraries:
        for name, part in libraries[sys.argv[1]]().items():
            print(f"{sys.argv[1]:<8}{name:<32}{ms(part):8.2f}", flush=True)
        return
    pythons = {"xla": sys.executable, "torch": sys.argv[1] if sys.argv[1:] else sys.executable}
    for library, python in pythons.items():
        environment = {**os.environ, "OMP_NUM_THREADS": str(os.cpu_count())}
        subprocess.run([python, __file__, library], env=environment, check=True)


if __name__ == "__main__":
    main()
