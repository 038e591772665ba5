"""Environments of other libraries, by small fakes of their interfaces; CartPole, where installed.

Seen to fail, by one line of the adapters changed each time. Of gymnax: a time limit that
terminates or is hidden from 1.0, code that strict promotion refuses, a state whose numbers change
their type, actions of another shape. Of Gymnasium: a time limit that terminates, a truncation by
the environment itself that does not, observations that the next one overwrites, actions and
observations counted from another start, seeds that depend on the object; a replay without the
last action; a copy cached by its seed and number of steps, by its actions, or by its seed alone;
a copy that stays at the snapshot it has left (evaluation then changes training); copies that are
never reused, earlier snapshots dropped, room for too few (all replay); a call for each row; each
refusal.
"""

import sys
import types
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jdl
from jdl.environments import (
    Box,
    Discrete,
    from_gymnasium,
    from_gymnax,
    reset_episodes,
    rollout,
    step_episodes,
)
from jdl.environments.gymnasium_adapter import ReplayCache
from jdl.metrics import scalars
from jdl.models.actor_critic import ActorCritic
from jdl.models.mlp import MLP
from jdl.types import Error


def space(kind, shape=(), dtype=np.float32, **more):
    """A space of a class of this name, by which the libraries' own are recognised too."""
    return type(kind, (), {"shape": shape, "dtype": dtype, **more})()


@dataclass(frozen=True)
class Params:
    pace: int = 1
    max_steps_in_episode: int = 7


class Gymnax:
    """Places from 0 to 5, the end; 1 moves on. As before gymnax 1.0 the limit is `done` too."""

    default_params = Params()
    action_type, obs_type = space("Discrete", n=2), None

    def reset_env(self, key, params):
        return jnp.zeros(1), {"place": 0, "time": 0}

    def step_env(self, key, state, action, params):
        reward = 2 * (action * jnp.ones(()))  # an int by a float, which strict promotion refuses
        state = {
            "place": state["place"] + action * params.pace,
            "time": state["time"] + 1.0,
        }  # an int at first
        done = (state["place"] >= 5) | (state["time"] >= params.max_steps_in_episode)
        return state["place"][None], state, reward, done, {}

    def action_space(self, params):
        return self.action_type


class Torques(Gymnax):
    """Like it, by actions of numbers (2, 1), which are added."""

    action_type = space("Box", (2, 1), low=-2.0, high=np.asarray([[1.0], [4.0]]))

    def step_env(self, key, state, action, params):
        assert action.shape == (2, 1)
        state = {**state, "place": jnp.round(action.sum()).astype(jnp.int32)}
        return action[:, 0], state, action[0, 0], jnp.asarray(False), {}

    def reset_env(self, key, params):
        return jnp.zeros(2), {"place": 0, "time": 0}


class Walk:
    """A place that drifts by draws of the seed and is pushed by actions; it ends beyond 1."""

    copies = resets = steps = 0
    action_type, obs_type = space("Discrete", n=3, start=-1), space("Box", (2,))
    limit, deterministic = 40, True

    @classmethod
    def reset_counts(cls):
        cls.copies = cls.resets = cls.steps = 0

    def __init__(self, push=0.1):
        type(self).copies += 1
        self.push, self.action_space, self.observation_space = push, self.action_type, self.obs_type
        self.spec, self.memory = types.SimpleNamespace(id="Walk-v0"), np.zeros(2, np.float32)

    def reset(self, seed):
        assert type(seed) is int
        type(self).resets += 1
        if self.deterministic or self.resets == 1:
            self.random = np.random.default_rng(seed)
        self.place, self.time = self.random.uniform(-0.3, 0.3), 0
        return self._observe(), {}

    def step(self, action):
        type(self).steps += 1
        self.place = (
            0.9 * self.place + self.push * float(np.sum(action)) + self.random.normal(scale=0.1)
        )
        self.time += 1
        return self._observe(), 1 - abs(self.place), abs(self.place) > 1, False, {}

    def _observe(self):
        self.memory[:] = self.place, self.time  # into the same memory, as some environments do
        return self.memory


class Rooms(Walk):
    """Numbered observations, and numbers (2, 1) as actions."""

    action_type = space(
        "Box", (2, 1), np.float64, low=np.full((2, 1), -1.0), high=np.full((2, 1), 2.0)
    )
    obs_type = space("Discrete", n=5, start=3)

    def step(self, action):
        assert (action.shape, action.dtype) == ((2, 1), np.float64)
        return super().step(action)

    def _observe(self):
        return 3 + min(int(abs(self.place) * 4), 4)


@pytest.fixture
def walk(monkeypatch):
    """A fake of Gymnasium that has `Walk` alone, before any environment exists."""
    return install(monkeypatch, Walk)


def install(monkeypatch, kind):
    def make(name, max_episode_steps, disable_env_checker, **options):
        assert (name, max_episode_steps, disable_env_checker) == ("Walk-v0", -1, True)
        return kind(**options)

    fake = types.ModuleType("gymnasium")
    fake.make, fake.spec = make, lambda name: types.SimpleNamespace(max_episode_steps=kind.limit)
    monkeypatch.setitem(sys.modules, "gymnasium", fake)
    kind.reset_counts()
    return kind


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def assert_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


def test_gymnax_steps_and_its_time_limit_does_not_terminate():
    environment = from_gymnax(Gymnax())
    assert (environment.action_space, environment.max_episode_steps) == (Discrete(2), 7)
    episodes, results = reset_episodes(environment, keys(2)), []
    for n in range(8):
        actions = jnp.asarray([1, 0])
        episodes, result = step_episodes(environment, episodes, actions, keys(2, n))
        results.append(result)
    steps = jax.tree.map(lambda *leaves: np.stack(leaves), *results)
    np.testing.assert_array_equal(steps.next_obs[:, 0, 0], [1, 2, 3, 4, 5, 1, 2, 3])
    np.testing.assert_array_equal(np.flatnonzero(steps.terminated[:, 0]), [4])
    np.testing.assert_array_equal(np.flatnonzero(steps.done[:, 1]), [6])
    assert not steps.terminated[:, 1].any()
    assert steps.reward.dtype == steps.next_obs.dtype == np.float32
    np.testing.assert_array_equal(steps.reward, np.tile([2, 0], (8, 1)))
    before = jax.eval_shape(environment.reset, keys(1)[0])
    after = jax.eval_shape(environment.step, before, jnp.asarray(1), keys(1)[0])[0]
    assert after == before  # the state keeps its types
    state = environment.reset(jax.random.key(0))
    assert from_gymnax(Gymnax(), Params(pace=5)).step(state, jnp.asarray(1), keys(1)[0])[2]


def test_gymnax_with_continuous_actions_of_any_shape():
    environment = from_gymnax(Torques())
    assert environment.action_space == Box((-2.0, -2.0), (1.0, 4.0))
    state = environment.reset(jax.random.key(0))
    action = environment.action_space.unnormalize(jnp.asarray([1.0, -1.0]))
    state, reward, _ = environment.step(state, action, jax.random.key(1))
    np.testing.assert_array_equal(environment.observe(state), [1, -2])
    assert float(reward) == 1
    assert state[1]["place"] == -1


def test_gymnax_from_1_0_keeps_its_params():
    """`done` is false at the time limit there, and some observe the share of it that has passed."""

    class Timed(Torques):
        def is_truncated(self, state, params):
            raise AssertionError

        def step_env(self, key, state, action, params):
            obs = jnp.full(2, 1 / params.max_steps_in_episode)
            return obs, state, jnp.zeros(()), jnp.asarray(False), {}

    environment = from_gymnax(Timed())
    state, _, _ = environment.step(
        environment.reset(jax.random.key(0)), jnp.zeros(2), jax.random.key(1)
    )
    np.testing.assert_allclose(environment.observe(state), 1 / 7)


@pytest.mark.parametrize("algorithm", ["dqn", "ppo"])
def test_learns_in_gymnax(algorithm):
    environment = from_gymnax(Gymnax())
    if algorithm == "ppo":
        learner = jdl.ppo(environment, ActorCritic(2), optax.adam(1e-2), num_steps=16)
    else:
        learner = jdl.dqn(
            environment,
            MLP(2, (16,)),
            optax.adam(1e-2),
            lambda step: 0.3,
            4,
            256,
            32,
            learning_starts=5,
            gamma=0.7,  # else to wait costs less than the error of the values
        )
    state = trained(learner, 20 if algorithm == "ppo" else 150)
    out = learner.objective.loss(
        learner.eval_variables(state), jdl.data.episodes(3)[0], jax.random.key(2), False
    )
    assert scalars(out.metrics) == {"return": 10.0, "length": 5.0}


def trained(learner, steps, state=None, rows=4):
    batch = jdl.data.episodes(rows)[0]
    state = jax.jit(learner.init)(jax.random.key(0), batch) if state is None else state
    step = jax.jit(learner.step)
    for _ in range(steps):
        state, _ = step(state, batch)
    return jax.block_until_ready(state)


def direct_steps(kind, seed, actions, **options):
    """(obs, reward, terminated) of the environment itself, first and after each action."""
    env = kind(**options)
    results = [(np.array(env.reset(seed=seed)[0]), 0.0, False)]
    for action in actions:
        obs, reward, terminated, _, _ = env.step(action)
        results.append((np.array(obs), reward, terminated))
    return results


def test_gymnasium_steps_as_it_does_itself_and_its_limit_does_not_terminate(walk):
    environment = from_gymnasium("Walk-v0", push=0.2)
    assert (environment.action_space, environment.max_episode_steps) == (Discrete(3), 40)
    rows, length = 4, 90
    episodes = reset_episodes(environment, keys(rows))

    def policy(obs, keys):
        return jax.vmap(lambda key: jax.random.randint(key, (), 0, 3))(keys)

    _, steps = jax.jit(lambda: rollout(environment, policy, episodes, keys(rows, 1), length))()
    steps = jax.tree.map(np.asarray, steps)
    truncated = steps.done & ~steps.terminated
    assert truncated.any() and steps.terminated.any()  # noqa: PT018
    at_limit = (steps.episode_length == 40) & ~steps.terminated
    np.testing.assert_array_equal(truncated, at_limit)
    for row in range(rows):
        last = np.flatnonzero(steps.done[:, row])[0]
        seed, actions = int(episodes.env_state["seed"][row]), steps.action[: last + 1, row] - 1
        expected = direct_steps(walk, seed, actions, push=0.2)
        for n in range(last + 1):
            obs, (next_obs, reward, terminated) = expected[n][0], expected[n + 1]
            np.testing.assert_array_equal(steps.obs[n, row], obs.astype(np.float32))
            np.testing.assert_array_equal(steps.next_obs[n, row], next_obs.astype(np.float32))
            assert steps.reward[n, row] == np.float32(reward)
            assert steps.terminated[n, row] == terminated


def test_gymnasium_with_continuous_actions_and_discrete_observations(monkeypatch):
    kind = install(monkeypatch, Rooms)
    environment = from_gymnasium("Walk-v0", max_episode_steps=9)
    assert (environment.action_space, environment.max_episode_steps) == (
        Box((-1.0, -1.0), (2.0, 2.0)),
        9,
    )
    state = environment.reset(jax.random.key(0))
    assert (state["actions"].shape, state["actions"].dtype) == ((9, 2), np.float32)
    actions = np.random.default_rng(0).uniform(-1, 2, (5, 2)).astype(np.float32)
    expected = direct_steps(kind, int(state["seed"]), actions.astype(float).reshape(5, 2, 1))
    for n, action in enumerate(actions):
        np.testing.assert_array_equal(environment.observe(state), np.arange(3, 8) == expected[n][0])
        state, reward, terminated = environment.step(state, jnp.asarray(action), jax.random.key(n))
        _, expected_reward, end = expected[n + 1]
        assert (float(reward), bool(terminated)) == (np.float32(expected_reward), end)


def test_a_truncation_by_gymnasiums_environment_itself_terminates(monkeypatch):
    class Truncating(Walk):
        def step(self, action):
            obs, reward, *_ = super().step(action)
            return obs, reward, False, self.time == 2, {}

    install(monkeypatch, Truncating)
    environment = from_gymnasium("Walk-v0")
    state, ends = environment.reset(jax.random.key(0)), []
    for n in range(2):
        state, _, terminated = environment.step(state, jnp.asarray(1), jax.random.key(n))
        ends.append(bool(terminated))
    assert ends == [False, True]


def test_an_observation_does_not_depend_on_earlier_calls(walk):
    """Of episodes that branch from one start, observed in any order; the cache is too small."""
    environment = from_gymnasium("Walk-v0")
    states = [environment.reset(jax.random.key(0))]
    for n in range(100):
        state = states[n // 2]
        states.append(environment.step(state, jnp.asarray(n % 2 * 2), jax.random.key(n))[0])
    expected = [np.asarray(environment.observe(state)) for state in states]
    assert len(np.unique(np.stack(expected), axis=0)) == 101
    again = from_gymnasium("Walk-v0")
    for n in np.random.default_rng(0).permutation(np.repeat(np.arange(101), 3)):
        np.testing.assert_array_equal(again.observe(states[n]), expected[n])


def ppo(environment=None, **options):
    environment = environment or from_gymnasium("Walk-v0")
    return jdl.ppo(
        environment,
        ActorCritic(3),
        optax.adam(1e-2),
        num_steps=16,
        update_epochs=2,
        num_minibatches=2,
        **options,
    )


def test_a_state_continues_with_a_new_environment_to_the_bit(walk):
    whole, stopped = trained(ppo(), 6), trained(ppo(), 3)
    lengths = np.asarray(stopped.extra["episodes"].episode_length)
    assert (lengths > 0).any()  # in the middle of episodes
    assert_equal(trained(ppo(), 3, jax.tree.map(jnp.array, stopped)), whole)


def test_evaluation_changes_nothing(walk):
    learner, batch = ppo(), jdl.data.episodes(4)[0]
    loss = jax.jit(learner.objective.loss, static_argnums=3)
    alone, evaluated, returns = trained(learner, 5), trained(learner, 0), []
    for _ in range(5):
        returns.append(
            loss(learner.eval_variables(evaluated), batch, jax.random.key(7), False).loss
        )
        evaluated = trained(learner, 1, evaluated)
    assert_equal(evaluated, alone)
    again = loss(learner.eval_variables(trained(ppo(), 0)), batch, jax.random.key(7), False).loss
    assert_equal(returns[0], again)
    assert len({float(loss.total) for loss in returns}) > 1


def test_copies_are_stepped_and_not_replayed(walk):
    """A step costs a step, and only a new episode a reset; also where no observation is read."""
    environment, rows, length = from_gymnasium("Walk-v0", push=0.0, max_episode_steps=300), 6, 200
    for reads_obs in (True, False):
        episodes = reset_episodes(environment, keys(rows))
        walk.reset_counts()

        def select_action(obs, keys, reads_obs=reads_obs):
            return (obs[:, 0] > 0).astype(jnp.int32) if reads_obs else jnp.zeros(rows, jnp.int32)

        run = partial(rollout, environment, select_action, episodes, keys(rows, 1), length)
        ends = jax.jit(lambda run=run: run()[1].done)()
        assert rows * length - 10 * rows <= walk.steps <= rows * length
        assert walk.resets <= rows + int(ends.sum())
        assert walk.copies <= 64
    states = [environment.reset(jax.random.key(5))]
    walk.reset_counts()
    for _ in range(2):  # an earlier snapshot as well
        obs = environment.observe(states[0])
        states.append(environment.step(states[0], jnp.asarray(1), jax.random.key(6))[0])
    np.testing.assert_array_equal(environment.observe(states[0]), obs)
    assert (walk.resets, walk.steps) == (1, 1)


def test_a_population_calls_the_host_once_for_all_rows(walk, monkeypatch):
    shapes, look_up_rows = [], ReplayCache._look_up_rows

    def recorded(self, *arguments):
        shapes.append(arguments[2].shape)
        return look_up_rows(self, *arguments)

    monkeypatch.setattr(ReplayCache, "_look_up_rows", recorded)
    many = jdl.population(ppo(), (3, 0))
    state = trained(many, 2)
    assert set(shapes) == {(2, 4)}
    assert len(shapes) <= 1 + 2 * 3 * 16  # obs, reward and next_obs in each step of the rollouts
    out = many.objective.loss(
        many.eval_variables(state), jdl.data.episodes(3)[0], jax.random.key(1), False
    )
    assert scalars(out.metrics)["length/min"] > 0
    one = trained(ppo(), 0).extra["episodes"].env_state["seed"]
    assert state.extra["episodes"].env_state["seed"].shape == (2, *one.shape)


def other_walk(action_type=Walk.action_type, obs_type=Walk.obs_type, **more):
    """A class like `Walk`, of other spaces."""
    return type("Other", (Walk,), {"action_type": action_type, "obs_type": obs_type, **more})


def make(monkeypatch, kind, **options):
    install(monkeypatch, kind)
    return from_gymnasium("Walk-v0", **options)


def missing(monkeypatch, library, call):
    monkeypatch.setitem(sys.modules, library, None)
    call()


def gymnax(**more):
    return from_gymnax(type("Other", (Gymnax,), more)())


class Dict:
    def __repr__(self):
        return "Dict(a, b)"


REFUSED = {
    r"needs Gymnasium, which is not installed .*: pip install 'jdl\[rl\]'": lambda patch: missing(
        patch, "gymnasium", lambda: from_gymnasium("Walk-v0")
    ),
    r"needs gymnax, which is not installed .*: pip install 'jdl\[rl\]'": lambda patch: missing(
        patch, "gymnax", lambda: from_gymnax("CartPole-v1")
    ),
    "Walk-v0 takes actions of .*MultiBinary": lambda patch: make(
        patch, other_walk(space("MultiBinary", (3,), np.int8, n=3))
    ),
    "finite bounds": lambda patch: make(
        patch, other_walk(space("Box", (1,), low=-np.inf, high=1.0))
    ),
    "a Box of floats": lambda patch: make(
        patch, other_walk(space("Box", (1,), np.uint8, low=0, high=9))
    ),
    r"has observations of Dict\(a, b\)": lambda patch: make(patch, other_walk(obs_type=Dict())),
    "without a time limit.*max_episode_steps=": lambda patch: make(patch, other_walk(limit=None)),
    "at least 1, got 0": lambda patch: make(patch, Walk, max_episode_steps=0),
    "does not do the same again": lambda patch: make(patch, other_walk(deterministic=False)),
    r"takes actions of Dict\(a, b\)": lambda patch: gymnax(action_type=Dict()),
    "no max_steps_in_episode": lambda patch: gymnax(default_params=types.SimpleNamespace()),
    "observations of type dict": lambda patch: gymnax(
        reset_env=lambda *_: ({"a": jnp.zeros(1)}, {})
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refuses(message, monkeypatch):
    with pytest.raises(Error, match=message):
        REFUSED[message](monkeypatch)


def test_refuses_steps_after_the_limit(walk):
    environment = from_gymnasium("Walk-v0", max_episode_steps=2)
    state = {**environment.reset(jax.random.key(0)), "count": jnp.asarray(2)}
    with pytest.raises(Exception, match="after its limit of 2 steps"):
        jax.block_until_ready(environment.step(state, jnp.asarray(1), jax.random.key(1)))


@pytest.mark.parametrize("library", ["gymnax", "gymnasium"])
def test_cartpole_of_each_library_is_ours(library):
    pytest.importorskip(library)
    other = from_gymnax("CartPole-v1") if library == "gymnax" else from_gymnasium("CartPole-v1")
    ours = jdl.environments.cartpole()
    assert (other.action_space, other.max_episode_steps) == (
        ours.action_space,
        ours.max_episode_steps,
    )
    step, our_step = jax.jit(other.step), jax.jit(ours.step)
    for start in range(3):
        state, fallen, n = other.reset(jax.random.key(start)), False, 0
        assert float(jnp.abs(other.observe(state)).max()) <= 0.05
        while not fallen:
            x, action = other.observe(state), jnp.asarray(n * n // 3 % 2)
            state, reward, fallen = step(state, action, jax.random.key(n))
            expected, our_reward, our_end = our_step(x, action, jax.random.key(n))
            np.testing.assert_allclose(other.observe(state), expected, atol=1e-5)
            assert (float(reward), bool(fallen)) == (float(our_reward), bool(our_end))
            n += 1
        assert 5 < n < 100


@pytest.mark.parametrize("library", ["gymnax", "gymnasium"])
def test_cartpole_of_each_library_is_truncated_at_its_limit(library):
    """By a policy that holds the pole."""
    pytest.importorskip(library)
    other = from_gymnax("CartPole-v1") if library == "gymnax" else from_gymnasium("CartPole-v1")

    def hold(obs, keys):
        return (obs @ jnp.asarray([0.1, 0.3, 1.0, 0.6]) > 0).astype(jnp.int32)

    episodes = reset_episodes(other, keys(2))
    _, steps = jax.jit(lambda: rollout(other, hold, episodes, keys(2, 1), 501))()
    assert not steps.terminated.any()
    np.testing.assert_array_equal(np.flatnonzero(steps.done[:, 0]), [499])
    assert steps.episode_return[499, 0] == 500


def test_training_in_gymnasiums_cartpole_continues_to_the_bit():
    pytest.importorskip("gymnasium")

    def learner():
        return jdl.ppo(
            from_gymnasium("CartPole-v1"), ActorCritic(2), optax.adam(1e-2), num_steps=32
        )

    assert_equal(trained(learner(), 2, trained(learner(), 2)), trained(learner(), 4))
