"""What repeats on this machine: a CNN and a transformer, trained in every way that it has, in two processes each."""

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

import jdl
from jdl.learners import jit_learner, with_data, member, population
from jdl.models.cnn import CNN
from jdl.models.gpt import GPT
from jdl.models.transformer import TransformerConfig
from jdl.parallel import to_local
from jdl.store.checkpoints import state_digest
from jdl.config import Config, Options
from jdl.store.environment import fingerprint
from jdl.train.placement import place_on_devices
from jdl.types import Loader, Error, Learner, Run, State

STEPS, BATCH, SEEDS, MOST = 8, 32, 3, 8  # MOST devices take part
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
Found = dict[str, dict[str, dict[str, Any]]]  # by family and way: digest, distance, milliseconds


def examined() -> tuple[list[str], bool]:
    """What is to be told of this machine, and whether steps compiled twice gave the same bits: in a minute or two."""
    to_local = fingerprint()
    lines = _told(to_local)
    first, second = _probed_twice()
    lines += ["", f"{STEPS} steps of {BATCH} rows", *_table(first, second)]
    if to_local["devices"]["kind"] != "cpu":
        lines += _other_flags(first)
    alike = all(
        first[family]["jit"]["digest"] == second[family]["jit"]["digest"] for family in first
    )
    verdict = "repeat to the bit" if alike else "DO NOT repeat"
    return [*lines, "", f"Runs of one device {verdict} here."], alike


def _told(to_local: dict[str, Any]) -> list[str]:
    device, stats = jax.devices()[0], jax.devices()[0].memory_stats() or {}
    cpu = device.platform == "cpu"
    memory = (
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if cpu
        else stats.get("bytes_limit", 0)
    )
    given = {
        **to_local["variables"],
        **{name: value for name, value in to_local["settings"].items() if value is not None},
    }
    lines = [
        f"versions  {', '.join(f'{name} {version}' for name, version in here['versions'].items())}",
        f"devices   {to_local['devices']['count']} of kind {to_local['devices']['kind']}, {memory / 2**30:.1f} GiB of memory, "
        f"{to_local['host']['cores']} cores",
        f"settings  {', '.join(f'{name}={value}' for name, value in given.items())}",
    ]
    if cpu and "PJRT_NPROC" not in os.environ:
        lines.append(
            "warning   another number of cores gives other bits, as PJRT_NPROC is not set: PJRT_NPROC=8 fixes it"
        )
    if device.platform == "gpu" and DETERMINISTIC not in os.environ.get("XLA_FLAGS", ""):
        lines.append(
            f"warning   XLA_FLAGS has no {DETERMINISTIC}: XLA may choose other kernels at each compilation"
        )
    if device.platform != "cpu" and to_local["settings"]["jax_default_matmul_precision"] is None:
        lines.append(
            "warning   products of float32 are rounded: JAX_DEFAULT_MATMUL_PRECISION=highest has them exact"
        )
    return lines


def _table(first: Found, second: Found) -> list[str]:
    lines = [f"{'':<12}{'':<14}{'in another process':<20}{'from one device':<18}{'ms a step':>9}"]
    for family, ways in first.items():
        for way, found in ways.items():
            same = (
                "the same bits"
                if found["digest"] == second[family][way]["digest"]
                else "OTHER BITS"
            )
            distance = f"{found['distance']:.0e}" if found["distance"] else "the same bits"
            if way == "jit" or way.startswith("elastic"):  # which draws other masks of dropout
                distance = ""
            lines.append(f"{family:<12}{way:<14}{same:<20}{distance:<18}{found['ms']:>9.2f}")
        elastic = {found["digest"] for way, found in ways.items() if way.startswith("elastic")}
        if elastic:
            same = "the same bits" if len(elastic) == 1 else "OTHER BITS"
            lines.append(f"{family:<12}elastic, on any of these numbers of devices: {same}")
    return lines


def _other_flags(to_local: Found) -> list[str]:
    """The same on one device, with the deterministic flag where it was not set, and without it where it was."""
    flags = os.environ.get("XLA_FLAGS", "").split()
    other = [flag for flag in flags if flag != DETERMINISTIC]
    added = other == flags
    other = [*flags, DETERMINISTIC] if added else other
    first, second = _probed_twice("jit", XLA_FLAGS=" ".join(other))
    lines = [f"\n{'with' if added else 'without'} {DETERMINISTIC}", *_table(first, second)]
    for family, ways in first.items():
        ratio = ways["jit"]["ms"] / to_local[family]["jit"]["ms"]
        lines.append(
            f"{family:<12}takes {ratio if added else 1 / ratio:.2f} times as long with it as without"
        )
    return lines


def _probed_twice(*ways: str, **variables: str) -> list[Found]:
    """What two processes find: at once on a CPU, and in turn where one takes all of the memory of a GPU."""
    with ThreadPoolExecutor(2 if jax.default_backend() == "cpu" else 1) as threads:
        return list(threads.map(lambda _: _probed(*ways, **variables), range(2)))


def _probed(*ways: str, **variables: str) -> Found:
    """What a process of its own finds; nothing comes from the cache of compiled programs."""
    done = subprocess.run(
        [sys.executable, "-m", "jdl.inspect.doctor", *ways],
        env={**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false", **variables},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise Error(
            f"A training of a few steps fails on this machine: {done.stderr.strip()[-2000:]}"
        )
    return json.loads(done.stdout)


def probe(*ways: str) -> Found:
    """A few steps of each family in each of the `ways`, by default all that these devices allow."""
    count = 1 << min(jax.device_count(), MOST).bit_length() - 1  # a power of two
    if not ways:
        several = (
            (f"data={count}", f"pmap={count}", "elastic=1", f"elastic={count}")
            if count > 1
            else ("pmap=1",)
        )
        ways = ("jit", *several, f"seeds={SEEDS}")
    found: Found = {}
    for family, (learner, data) in _families():
        states = {way: _trained(learner, data, way, count) for way in ways}
        alone = states["jit"][0]
        found[family] = {
            way: {
                "digest": state_digest(state),
                "distance": _distance(
                    member(state.params, 0) if way.startswith("seeds") else state.params,
                    alone.params,
                ),
                "ms": milliseconds,
            }
            for way, (state, milliseconds) in states.items()
        }
    return found


def _families() -> Iterator[tuple[str, tuple[Learner, Loader]]]:
    """BatchNorm, dropout, augmentation; attention over the 64 pixels of a digit. Both of digits, both under Adam."""
    train, _ = jdl.data.digits()
    cnn = CNN(10, blocks=((16, 1),), dense=(32,), batch_norm=True, dropout=0.2)
    batches = train.shuffled(BATCH, 0, jdl.data.random_crop(1))
    yield "cnn", (jdl.descent(jdl.objectives.classify(cnn), optax.adam(1e-3)), batches)
    columns = train.take(np.arange(len(train)))
    pixels = jdl.data.arrays(x=(16 * columns["x"]).astype(np.int32).reshape(len(train), -1))
    gpt = GPT(17, TransformerConfig(width=32, depth=1, heads=2, max_length=64, dropout=0.1))
    yield (
        "transformer",
        (jdl.descent(jdl.objectives.next_token(gpt), optax.adam(1e-3)), pixels.shuffled(BATCH, 0)),
    )


def _trained(learner: Learner, data: Loader, way: str, devices: int) -> tuple[State, float]:
    """The state after the steps, here, and the milliseconds of a step that was compiled before."""
    kind, _, number = way.partition("=")
    if kind == "seeds":
        loop = jit_learner(population(with_data(learner, data), range(int(number))))
    else:
        loop, run = _laid_out(learner, data, kind, int(number or 1), devices)
        data = run.train
    state, taken = loop.init(jax.random.key(0), data[0]), []
    for _, source in zip(range(STEPS), data.read(), strict=False):
        began = time.perf_counter()
        state, metrics = loop.step(state, source)
        jax.block_until_ready((state, metrics))
        taken.append(time.perf_counter() - began)
    return to_local(state), 1e3 * statistics.median(taken[2:])


def _laid_out(
    learner: Learner, data: Loader, kind: str, number: int, devices: int
) -> tuple[Learner, Run]:
    """As `fit` lays a run out."""
    config = Config(name="doctor", elastic=devices if kind == "elastic" else 0)
    options = Options(
        devices=None if kind == "jit" else number, parallel="pmap" if kind == "pmap" else "jit"
    )
    loop, run, _ = place_on_devices(Run(config, learner, data), options)
    return loop, run


def _distance(params: Any, reference: Any) -> float:
    """How far parameters are from the reference, relative to these (Euclidean norms); 0 where all bits are equal."""
    found, wanted = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(to_local(tree))]).astype(
            np.float64
        )
        for tree in (params, reference)
    )
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(probe(*sys.argv[1:])))
