"""Diagnosis of a machine: which ways of training a CNN and a transformer repeat to the bit."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import optax

from jdl.config import Config, Options
from jdl.data import arrays, digits, random_crop
from jdl.learners import descent, jit_learner, member, population, with_data
from jdl.models.cnn import CNN
from jdl.models.gpt import GPT
from jdl.models.transformer import TransformerConfig
from jdl.objectives import classify, next_token
from jdl.parallel import to_local
from jdl.run import Run
from jdl.store.checkpoints import state_digest
from jdl.store.environment import DETERMINISTIC_FLAG, fingerprint
from jdl.train.placement import place_on_devices
from jdl.types import Error, Learner, Loader, State

STEPS, BATCH, SEEDS, MAX_DEVICES = 8, 32, 3, 8
Results = dict[str, dict[str, dict[str, Any]]]  # by model and way: digest, distance, milliseconds


def examine() -> tuple[list[str], bool]:
    """A report on this machine (takes 1 to 2 minutes), and whether one device repeats."""
    environment = fingerprint()
    lines = _describe(environment)
    first, second = _run_twice()
    lines += ["", f"{STEPS} steps of {BATCH} rows", *_table(first, second)]
    if environment["devices"]["kind"] != "cpu":
        lines += _compare_deterministic(first)
    repeats = all(
        first[model]["jit"]["digest"] == second[model]["jit"]["digest"] for model in first
    )
    verdict = "repeat to the bit" if repeats else "DO NOT repeat"
    return [*lines, "", f"Runs on one device {verdict} on this machine."], repeats


def _describe(environment: dict[str, Any]) -> list[str]:
    """Versions, devices and settings, with warnings about settings that change the bits."""
    device = jax.devices()[0]
    on_cpu = device.platform == "cpu"
    if on_cpu:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:
        memory = (device.memory_stats() or {}).get("bytes_limit", 0)
    devices, versions = environment["devices"], environment["versions"]
    precision = environment["settings"]["jax_default_matmul_precision"]
    settings = {**environment["variables"], **environment["settings"]}
    lines = [
        f"versions  {', '.join(f'{name} {version}' for name, version in versions.items())}",
        f"devices   {devices['count']} of kind {devices['kind']}, {memory / 2**30:.1f} GiB of "
        f"memory, {environment['host']['cores']} cores",
        "settings  " + ", ".join(f"{n}={v}" for n, v in settings.items() if v is not None),
    ]
    if device.platform == "gpu" and DETERMINISTIC_FLAG not in os.environ.get("XLA_FLAGS", ""):
        lines.append(
            f"warning   XLA_FLAGS lacks {DETERMINISTIC_FLAG}: kernels may add in any order, and "
            "XLA may choose others at each compilation"
        )
    if not on_cpu and precision is None:
        lines.append(
            "warning   float32 products are rounded to fewer bits: "
            "JAX_DEFAULT_MATMUL_PRECISION=highest computes them in full"
        )
    return lines


def _table(first: Results, second: Results) -> list[str]:
    """A line for each model and way: equal in two processes, distance from one device, time."""
    lines = [f"{'':<12}{'':<14}{'in another process':<20}{'from one device':<18}{'ms a step':>9}"]
    for model, ways in first.items():
        for way, result in ways.items():
            same = _same_bits(result["digest"] == second[model][way]["digest"])
            distance = f"{result['distance']:.0e}" if result["distance"] else _same_bits(True)
            if way == "jit" or way.startswith("elastic"):  # elastic draws other dropout masks
                distance = ""
            lines.append(f"{model:<12}{way:<14}{same:<20}{distance:<18}{result['ms']:>9.2f}")
        elastic = {result["digest"] for way, result in ways.items() if way.startswith("elastic")}
        if elastic:
            same = _same_bits(len(elastic) == 1)
            lines.append(f"{model:<12}elastic, on any of these numbers of devices: {same}")
    return lines


def _same_bits(same: bool) -> str:
    return "the same bits" if same else "OTHER BITS"


def _compare_deterministic(results: Results) -> list[str]:
    """The same on one device with the deterministic flag, or without it where it is set."""
    flags = os.environ.get("XLA_FLAGS", "").split()
    without = [flag for flag in flags if flag != DETERMINISTIC_FLAG]
    added = without == flags
    changed = [*flags, DETERMINISTIC_FLAG] if added else without
    first, second = _run_twice("jit", XLA_FLAGS=" ".join(changed))
    lines = [f"\n{'with' if added else 'without'} {DETERMINISTIC_FLAG}", *_table(first, second)]
    for model, ways in first.items():
        ratio = ways["jit"]["ms"] / results[model]["jit"]["ms"]
        ratio = ratio if added else 1 / ratio
        lines.append(f"{model:<12}takes {ratio:.2f} times as long with the flag as without")
    return lines


def _run_twice(*ways: str, **variables: str) -> list[Results]:
    """The results of two processes: at the same time on a CPU, one after another on a GPU.

    On a GPU one process takes all of the memory.
    """
    with ThreadPoolExecutor(2 if jax.default_backend() == "cpu" else 1) as threads:
        return list(threads.map(lambda _: _run_process(*ways, **variables), range(2)))


def _run_process(*ways: str, **variables: str) -> Results:
    """The results of a new process, which does not use the cache of compiled programs."""
    process = subprocess.run(
        [sys.executable, "-m", "jdl.inspect.doctor", *ways],
        env={**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false", **variables},
        capture_output=True,
        text=True,
    )
    if process.returncode:
        raise Error(
            f"Training for a few steps fails on this machine: {process.stderr.strip()[-2000:]}"
        )
    return json.loads(process.stdout)


def train_in_ways(*ways: str) -> Results:
    """Trains each model in each of the `ways`, by default in all that these devices allow."""
    count = 1 << min(jax.device_count(), MAX_DEVICES).bit_length() - 1  # a power of two
    ways = ways or _all_ways(count)
    results: Results = {}
    for model, (learner, data) in _models():
        states = {way: _train(learner, data, way, count) for way in ways}
        reference = states["jit"][0].params
        results[model] = {
            way: {
                "digest": state_digest(state),
                "distance": _distance(_first_member(way, state.params), reference),
                "ms": milliseconds,
            }
            for way, (state, milliseconds) in states.items()
        }
    return results


def _all_ways(devices: int) -> tuple[str, ...]:
    parallel: tuple[str, ...] = ("pmap=1",)
    if devices > 1:
        parallel = (f"data={devices}", f"pmap={devices}", "elastic=1", f"elastic={devices}")
    return ("jit", *parallel, f"seeds={SEEDS}")


def _models() -> Iterator[tuple[str, tuple[Learner, Loader]]]:
    """A CNN (BatchNorm, dropout, augmentation), and a transformer over a digit's 64 pixels."""
    train, _ = digits()
    cnn = CNN(10, blocks=((16, 1),), dense=(32,), batch_norm=True, dropout=0.2)
    batches = train.shuffled(BATCH, 0, random_crop(1))
    yield "cnn", (descent(classify(cnn), optax.adam(1e-3)), batches)
    columns = train.take(np.arange(len(train)))
    pixels = arrays(x=(16 * columns["x"]).astype(np.int32).reshape(len(train), -1))
    gpt = GPT(17, TransformerConfig(width=32, depth=1, heads=2, max_length=64, dropout=0.1))
    learner = descent(next_token(gpt), optax.adam(1e-3))
    yield "transformer", (learner, pixels.shuffled(BATCH, 0))


def _train(learner: Learner, data: Loader, way: str, devices: int) -> tuple[State, float]:
    """The state after 8 steps, and the median milliseconds of a step, without compilation."""
    kind, _, number = way.partition("=")
    if kind == "seeds":
        compiled = jit_learner(population(with_data(learner, data), range(int(number))))
    else:
        config = Config(name="doctor", elastic=devices if kind == "elastic" else 0)
        options = Options(
            devices=None if kind == "jit" else int(number),
            parallel="pmap" if kind == "pmap" else "jit",
        )
        placement = place_on_devices(Run(config, learner, data), options)
        compiled, data = placement.learner, placement.run.train
    state, seconds = compiled.init(jax.random.key(0), data[0]), []
    for _, raw in zip(range(STEPS), data.read(), strict=False):
        start = time.perf_counter()
        state, metrics = compiled.step(state, raw)
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - start)
    return to_local(state), 1e3 * statistics.median(seconds[2:])


def _first_member(way: str, params: Any) -> Any:
    return member(params, 0) if way.startswith("seeds") else params


def _distance(params: Any, reference: Any) -> float:
    """The relative distance of parameters from the reference, in the Euclidean norm; 0 if equal."""
    x, y = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(to_local(tree))])
        for tree in (params, reference)
    )
    x, y = x.astype(np.float64), y.astype(np.float64)
    return float(np.linalg.norm(x - y) / np.linalg.norm(y))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(train_in_ways(*sys.argv[1:])))
