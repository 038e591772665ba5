"""Programs that runs share have the bits of programs of their own, or are not shared.

Seen to fail: a program with arguments that is not compared, or for a power of two alone; half
numbers as arguments, the numbers of the first run for all, programs found by less than their whole
text; numbers of a loop that stay constant, are doubled, or are looked for in other loops.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from model_table import TABLE

import jdl
from jdl.learners import jit_learner, several_steps, shared_programs
from jdl.learners.shared_programs import SharedPrograms, jit, share_programs

ROWS = {row.name: row for row in TABLE}
BATCH = jnp.arange(1.0, 9.0)


def trained(row, several, seed, rate, decay, beta):
    """The bits of all metrics and of the last state; the steps are compiled as `fit` does."""
    optimizer = optax.adamw(rate, b2=beta, weight_decay=decay)
    learner = row.wrap(jdl.descent(row.objective(row.model), optimizer))
    call = several_steps(learner, 2) if several else None
    learner, batch, found = jit_learner(learner), row.batch(), []
    state = learner.init(jax.random.key(seed), batch)
    for _ in range(3):
        state, metrics = call(state, batch, 2) if call else learner.step(state, batch)
        found.append(jax.tree.map(np.asarray, metrics))
    found.append((state.params, state.model_state, state.opt_state))
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(found)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "several"), [("mlp", False), ("lstm", False), ("mlp", True)])
def test_two_seeds_and_two_rates_share_programs_and_have_their_own_bits(name, several):
    first, other = (0, 1e-3, 0.013, 0.999), (1, 2.3e-3, 0.0021, 0.987)
    row, programs = ROWS[name], SharedPrograms()
    with share_programs(programs):
        shared = [trained(row, several, *one) for one in (first, other, (2, *first[1:]))]
    assert list(programs.equal.values()) == [True]
    assert len(programs.compiled) == 3  # of the initial state, and a step of either kind
    assert shared[1] == trained(row, several, *other)
    assert len({tuple(bits) for bits in shared}) == 3


def programs_of(*functions, args=(BATCH,), donated=()):
    """The programs of some functions, and what these give."""
    programs = SharedPrograms()
    with share_programs(programs):
        outputs = [jit(function, donated)(*args) for function in functions]
    alone = [jax.jit(function)(*args) for function in functions]
    for a, b in zip(outputs, alone, strict=True):
        np.testing.assert_array_equal(a, b)
    return programs


def test_a_program_with_other_bits_is_not_used():
    def folded(rate):
        return lambda x: (x * rate) * 0.7  # XLA of jax 0.10 multiplies two constants beforehand

    def shifted(rate):
        return lambda x: (x * rate) * 0.7 + jnp.pi * rate

    x = jnp.linspace(0.1, 9, 2_000)
    for rates in ((0.1, 0.3, 0.7), (0.125, 0.3), (0.125, 0.0625, 0.3)):
        programs_of(*map(folded, rates), args=(x,))
        programs_of(*map(shifted, rates), args=(x,))


def test_a_program_that_differs_once_is_not_used_and_it_is_said(monkeypatch):
    monkeypatch.setattr(shared_programs, "_digest", lambda call, *_: id(call))
    programs = programs_of(*map(lambda rate: lambda x: x * rate, (0.1, 0.2, 0.3)))
    assert list(programs.equal.values()) == [False]
    assert "1 with arguments gave other bits" in programs.summary()


def test_whole_and_half_numbers_stay_constants():
    def function(power):
        return lambda x: x**power

    programs = programs_of(*map(function, (0.7, 0.5, 0.9, -0.5)))
    assert len(programs.compiled) == 4  # 0.9 is the argument of a program, after 0.7 alone


def test_numbers_within_loops_are_arguments_but_for_those_of_conditions():
    def function(rate, limit, last=1.0):
        def inner(x):
            return jax.lax.while_loop(lambda x: x.sum() < limit, lambda x: x * (1 + rate) + last, x)

        def outer(carried):
            count, x = carried
            return count + 1, inner(x * rate)

        return lambda x: jax.lax.while_loop(lambda carried: carried[0] < 3, outer, (0, x))[1]

    programs = programs_of(*(function(rate, 60.7) for rate in (0.1, 0.3, 0.7, 0.9)))
    assert len(programs.compiled) == 2
    programs = programs_of(*(function(0.1, limit) for limit in (60.7, 70.7, 80.7)))
    assert len(programs.compiled) == 3
    programs = programs_of(function(0.1, 60.7), function(0.3, 70.7), function(0.3, 70.7, 0.7))
    assert len(programs.compiled) == 3


def test_functions_of_other_arrays_or_shapes_have_programs_of_their_own():
    def function(last):
        array = np.zeros(20_000, np.float32)
        array[-1] = last
        return lambda x: x.sum() + jnp.asarray(array)

    assert len(programs_of(*map(function, (1, 2))).compiled) == 2
    assert programs_of(*map(function, (1, 1))).reused == 1
    programs = SharedPrograms()
    with share_programs(programs):
        double = jit(lambda x: 2 * x)
    for x in (BATCH, BATCH[:3], BATCH.astype(jnp.int32)):
        np.testing.assert_array_equal(double(x), 2 * x)
    assert jax.eval_shape(double, BATCH[:2]).shape == (2,)
