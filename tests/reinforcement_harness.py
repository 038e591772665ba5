"""How tests do reinforcement learning."""

import jax

import jdl


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def trained(learner, steps, state=None, rows=4):
    batch = jdl.data.episodes(rows)[0]
    state = jax.jit(learner.init)(jax.random.key(0), batch) if state is None else state
    step = jax.jit(learner.step)
    for _ in range(steps):
        state, _ = step(state, batch)
    return jax.block_until_ready(state)
