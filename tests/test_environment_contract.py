"""What a user's own environment, and the numbers of its learner, may be: each error has its cure.

Seen to fail: each row of REFUSED, with `check_environment` or the check that it names left out;
the run that learns nothing, with `check_learning_starts` left out.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import optax
import pytest
from reinforcement_harness import corridor

import jdl
from jdl.environments import check_environment
from jdl.learners import PrioritizedReplay, trace_once
from jdl.models.actor_critic import ActorCritic
from jdl.models.mlp import MLP
from jdl.train.check import check_run

RIGHT = corridor()
SIZES = {"num_steps": 4, "buffer_size": 64, "batch_size": 8, "learning_starts": 5}


def step(change):
    """The corridor with another result of its step."""
    return lambda: replace(RIGHT, step=lambda s, action, key: change(*RIGHT.step(s, action, key)))


def python_if(state, action, key):
    return (*RIGHT.step(state, action, key)[:1], 1.0 if state > 2 else 0.0, state > 5)


def dqn(epsilon=lambda step: 0.1, **options):
    return jdl.dqn(RIGHT, MLP(2), optax.sgd(0.1), epsilon, **{**SIZES, **options})


def ppo(environment=RIGHT, **options):
    return jdl.ppo(environment, ActorCritic(2), optax.sgd(0.1), num_steps=4, **options)


def sac(**options):
    environment = corridor(continuous=True)
    return jdl.sac(environment, MLP(2), MLP(1), optax.sgd(0.1), **{**SIZES, **options})


def check(learner, steps=6):
    run = jdl.Run(jdl.Config("own", steps=steps), trace_once(learner), jdl.data.episodes(2))
    check_run(replace(run, best="min loss"))


ENVIRONMENTS = {
    "returns 5 values, as Gymnasium's": step(lambda *result: (*result, False, {})),
    "returns a dict": step(lambda *result: {"state": result[0]}),
    "exchange reward and terminated": step(lambda s, reward, ended: (s, ended, reward)),
    r"reward .* is float32 of shape \(1,\).*take x\[0\]": step(lambda s, r, e: (s, r[None], e)),
    r"terminated .* is int32 of shape \(\)": step(lambda s, r, e: (s, r, e.astype(int))),
    "state is float32 .* after reset, and int32": step(lambda s, r, e: (s.astype(int), r, e)),
    r"a state of the structure .* leave out info": step(lambda s, r, e: ({"x": s}, r, e)),
    r"step\(s, a\) cannot be": lambda: replace(RIGHT, step=lambda s, a: (s, 0.0, False)),
    r"reset\(\) cannot be": lambda: replace(RIGHT, reset=lambda: jnp.zeros(())),
    "returns a dict: join": lambda: replace(RIGHT, observe=lambda s: {"place": s}),
    "not 4": lambda: replace(RIGHT, action_space=4),
    "max_episode_steps must be a whole number from 1 on, not 0": lambda: replace(
        RIGHT, max_episode_steps=0
    ),
    "reset must be a function": lambda: replace(RIGHT, reset=3),
}

LEARNERS = {
    r"Python's if, .* in line \d+ of .*test_environment_contract": lambda: check(
        ppo(replace(RIGHT, step=python_if))
    ),
    "returns 5 values": lambda: check(
        jdl.population(ppo(replace(RIGHT, step=lambda s, a, k: (s,) * 5)), (0, 1))
    ),
    "epsilon must be a schedule": lambda: dqn(0.1),
    "epsilon must be from 0 to 1, and at training step 0 it is 10": lambda: check(
        dqn(lambda step: 10.0)
    ),
    "at training step 5 it is -1": lambda: check(dqn(optax.linear_schedule(1.0, -1.0, 5))),
    "beta must be a schedule": lambda: PrioritizedReplay(0.4),
    "gamma must be a number, not '0.9'": lambda: ppo(gamma="0.9"),
    "tau must be a number, not None": lambda: sac(tau=None),
    "num_steps must be a whole number, not 4.0": lambda: dqn(num_steps=4.0),
    "learning_starts=5 nothing would be learnt in the run's 5": lambda: check(dqn(), 5),
    "learning_starts=5 nothing .* run's 4": lambda: check(jdl.population(sac(), (0, 1)), 4),
}


@pytest.mark.parametrize("message", ENVIRONMENTS)
def test_an_environment_is_refused(message):
    with pytest.raises(jdl.Error, match=message):
        check_environment(ENVIRONMENTS[message]())


@pytest.mark.parametrize("message", LEARNERS)
def test_a_learner_is_refused(message):
    with pytest.raises(jdl.Error, match=message):
        LEARNERS[message]()


@pytest.mark.parametrize("learner", [dqn, sac, ppo], ids=["dqn", "sac", "ppo"])
def test_a_run_that_learns_in_its_last_step_is_checked(learner):
    check(learner())


def test_environments_of_python_numbers_and_other_states_are_right():
    python = replace(RIGHT, step=lambda s, action, key: (s, 1, False))
    nested = replace(
        RIGHT,
        reset=lambda key: {"place": jnp.zeros(()), "key": key},
        step=lambda s, action, key: ({**s, "key": key}, -0.5, s["place"] > 3),
        observe=lambda s: s["place"][None].astype(jnp.int8),
    )
    for environment in (python, nested, jdl.environments.t_maze(), jdl.environments.pendulum()):
        check_environment(environment)
    with jax.numpy_dtype_promotion("standard"):  # a model of whole numbers
        check(jdl.dqn(nested, MLP(2), optax.sgd(0.1), lambda step: 0.1, **SIZES))
