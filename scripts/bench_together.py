"""Trials together: a step of K trials in one program, beside K calls of a program that they share.

The trials of an experiment differ in seed and learning rate, which is an argument, as in a study.
Data that are alike are given once. All else is stacked in the program, and the step is mapped over
it by `lax.map` or `vmap`; or the program has the step K times (`copies`). Printed: processor and
clock milliseconds of a trial's step, medians over rounds in turn, each with the median of its ratio
to one by one; the processor seconds of the compilation; and whether all trials have the bits of
their own programs, in which the rate is a constant, after 20 steps, or how far parameters differ.

    scripts/bench together [TRIALS [EXPERIMENT ...]]
"""

import os
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jdl.cli.startup import set_up_jax
from jdl.learners import shared_programs, with_data
from jdl.store.checkpoints import state_digest
from jdl.train.experiment import load
from jdl.train.malloc import keep_memory
from jdl.train.placement import apply_config
from jdl.train.thread_pool import fix_thread_pool_size

COMPARED, ROUNDS, RATE = 20, 7, 1.3  # RATE: the ratio of the learning rates of two trials
EXPERIMENTS = {"digits_perceptron": 200, "digits_mlp": 40, "digits_cnn": 4}  # steps a round
WAYS = ("one by one", "map", "vmap", "copies")


class Trials:
    """The trials of an experiment, whose steps differ in some numbers, and their data."""

    def __init__(self, name, count):
        _, run, config = load(Path(__file__).parents[1] / "experiments" / f"{name}.py")
        rates = [float(f"{config().lr * RATE**k:.4g}") for k in range(count)]
        runs = [apply_config(run(config(seed=k, lr=lr))) for k, lr in enumerate(rates)]
        self.initial = [
            jax.jit(run.learner.init)(jax.random.key(run.config.seed), run.train[0]) for run in runs
        ]
        self.raw = [next(run.train.read(0)) for run in runs]
        learners = [with_data(run.learner, run.train) for run in runs]
        self.traces = [
            jax.jit(learner.step, donate_argnums=0).trace(*args)
            for learner, *args in zip(learners, self.initial, self.raw, strict=True)
        ]
        found = [shared_programs.numbers_of(trace.jaxpr) for trace in self.traces]
        places = tuple(place for place in found[0] if len({one[place] for one in found}) > 1)
        self.numbers = jax.device_put([[np.float32(one[p]) for p in places] for one in found])
        self.step = shared_programs.lift(self.traces[0], "step", places)
        leaves = [jax.tree.leaves(raw) for raw in self.raw]
        self.same = [
            all(np.array_equal(x, each[0]) for x in each) for each in zip(*leaves, strict=True)
        ]
        self.own = [_those(one, self.same, False) for one in leaves]
        self.shared = _those(leaves[0], self.same, True)

    def states(self):
        """Copies of the initial states."""
        return jax.tree.map(jnp.copy, self.initial)

    def one(self, shared, trial):
        """A step of one trial."""
        numbers, state, own = trial
        given = {True: iter(shared), False: iter(own)}
        leaves = [next(given[same]) for same in self.same]
        return self.step(
            numbers, state, jax.tree.unflatten(jax.tree.structure(self.raw[0]), leaves)
        )

    def all(self, way, states, numbers, own, shared):
        """A step of all trials in one program; what it gives for each."""
        trials, step = [*zip(numbers, states, own, strict=True)], partial(self.one, shared)
        if way == "copies":
            return [step(trial) for trial in trials]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trials)
        after = jax.lax.map(step, stacked) if way == "map" else jax.vmap(step)(stacked)
        return [jax.tree.map(lambda leaf, k=k: leaf[k], after) for k in range(len(trials))]

    def program(self, way):
        """The compiled step of all trials, as a function of their states."""
        if way == "one by one":
            step = jax.jit(self.step, donate_argnums=1)
            call = step.lower(self.numbers[0], self.states()[0], self.raw[0]).compile()
            return lambda states: [*map(call, self.numbers, states, self.raw)]
        given = self.numbers, self.own, self.shared
        call = jax.jit(partial(self.all, way), donate_argnums=0)
        call = call.lower(self.states(), *given).compile()
        return lambda states: call(states, *given)

    def own_programs(self, states):
        """A step of each trial by its own program."""
        self.compiled = getattr(self, "compiled", None) or [
            t.lower().compile() for t in self.traces
        ]
        return [call(*args) for call, *args in zip(self.compiled, states, self.raw, strict=True)]


def _those(leaves, same, wanted):
    return [leaf for leaf, one in zip(leaves, same, strict=True) if one is wanted]


def train(step, states, number):
    """Trains all trials for some steps; their states."""
    for _ in range(number):
        states, metrics = zip(*step(list(states)), strict=True)
        jax.block_until_ready(metrics)
    return states


def agreement(states, expected):
    """Whether all states are equal to the bit, or the largest difference of parameters."""
    if [*map(state_digest, states)] == [*map(state_digest, expected)]:
        return "equal"
    params = [jax.tree.leaves([state.params for state in one]) for one in (states, expected)]
    return f"{max(float(jnp.abs(a - b).max()) for a, b in zip(*params, strict=True)):.1e}"


def milliseconds(trials, step, number):
    """Processor and clock milliseconds of a trial's step."""
    states = jax.block_until_ready(trials.states())
    before = time.process_time(), time.perf_counter()
    train(step, states, number)
    after = time.process_time(), time.perf_counter()
    return [1e3 * (b - a) / number / len(states) for a, b in zip(before, after, strict=True)]


def measure(name, count, number):
    """Prints a line for each way."""
    trials, programs, compiling = Trials(name, count), {}, {}
    for way in WAYS:
        began = time.process_time()
        programs[way] = trials.program(way)
        compiling[way] = time.process_time() - began
    rounds = [
        {way: milliseconds(trials, step, number) for way, step in programs.items()}
        for _ in range(ROUNDS)
    ]
    expected = train(trials.own_programs, trials.states(), COMPARED)
    for way, step in programs.items():
        agrees = agreement(train(step, trials.states(), COMPARED), expected)
        cells = []
        for i in range(2):
            taken = statistics.median(one[way][i] for one in rounds)
            ratio = statistics.median(one[way][i] / one["one by one"][i] for one in rounds)
            cells.append(f"{taken:8.3f} ({ratio:.2f})")
        print(f"{name:<18} {count} {way:<11}", *cells, f"{compiling[way]:7.1f} s  {agrees}")


def main():
    """Prints a line for each experiment and way."""
    fix_thread_pool_size()
    set_up_jax()
    keep_memory()
    jax.config.update("jax_enable_compilation_cache", False)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 4
    device = jax.devices()[0].device_kind
    print(f"jax {jax.__version__}, {device}, {os.cpu_count()} cores; ms a step of a trial")
    print("of the processor, of the clock, and their ratios to one by one; compilation; bits")
    for name in sys.argv[2:] or EXPERIMENTS:
        measure(name, count, EXPERIMENTS.get(name, 20))


if __name__ == "__main__":
    main()
