"""Environments of other libraries, by small ones that have their interface; and CartPole, where they are installed.

Seen to fail, by a line of `adapters` changed each time: of gymnax, a time limit that terminates or is hidden from 1.0,
code that strict promotion refuses, a state whose numbers change their type, actions of another shape; of Gymnasium, a
cut-off that terminates, observations that the next one overwrites, actions and observations counted from another start,
seeds that depend on the object; a replay without the last action, a copy known by its seed and number of steps, by its
actions, or by its seed alone, a copy that stays at the point it has left (evaluation then changes training); copies
that are never found, earlier points forgotten, room for too few (all replay); a call for each row; each refusal.
"""

import sys
import types
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jdl
from jdl.environments import (
    Box,
    Discrete,
    adapters,
    begin,
    from_gymnasium,
    from_gymnax,
    move,
    rollout,
)
from jdl.metrics import scalars
from jdl.models.actor_critic import ActorCritic
from jdl.models.mlp import MLP
from jdl.types import Error


def space(kind, shape=(), dtype=np.float32, **more):
    """A space of this class; the libraries' own are recognised by the same names."""
    return type(kind, (), {"shape": shape, "dtype": dtype, **more})()


@dataclass(frozen=True)
class Params:
    pace: int = 1
    max_steps_in_episode: int = 7


class Gymnax:
    """Places from 0 that action 1 leaves for the next; it ends at place 5, or, as before gymnax 1.0, at the limit."""

    default_params = Params()
    acts, shows = space("Discrete", n=2), None

    def reset_env(self, key, params):
        return jnp.zeros(1), {"place": 0, "time": 0}

    def step_env(self, key, state, action, params):
        gone = action * jnp.ones(())  # an int by a float, which strict promotion refuses
        state = {
            "place": state["place"] + action * params.pace,
            "time": state["time"] + 1.0,
        }  # an int at first
        done = (state["place"] >= 5) | (state["time"] >= params.max_steps_in_episode)
        return state["place"][None], state, gone * 2, done, {}

    def action_space(self, params):
        return self.acts


class Torques(Gymnax):
    """Like it, by numbers (2, 1) that are added."""

    acts = space("Box", (2, 1), low=-2.0, high=np.asarray([[1.0], [4.0]]))

    def step_env(self, key, state, action, params):
        assert action.shape == (2, 1)
        state = {**state, "place": jnp.round(action.sum()).astype(jnp.int32)}
        return action[:, 0], state, action[0, 0], jnp.asarray(False), {}

    def reset_env(self, key, params):
        return jnp.zeros(2), {"place": 0, "time": 0}


class Walk:
    """A place that drifts by draws of the seed and is pushed by actions; it ends beyond 1."""

    made = resets = steps = 0
    acts, shows = space("Discrete", n=3, start=-1), space("Box", (2,))
    limit, repeats = 40, True

    @classmethod
    def forgotten(cls):
        cls.made = cls.resets = cls.steps = 0

    def __init__(self, push=0.1):
        type(self).made += 1
        self.push, self.action_space, self.observation_space = push, self.acts, self.shows
        self.spec, self.shown = types.SimpleNamespace(id="Walk-v0"), np.zeros(2, np.float32)

    def reset(self, seed):
        assert type(seed) is int
        type(self).resets += 1
        if self.repeats or self.resets == 1:
            self.random = np.random.default_rng(seed)
        self.place, self.time = self.random.uniform(-0.3, 0.3), 0
        return self._show(), {}

    def step(self, action):
        type(self).steps += 1
        self.place = (
            0.9 * self.place + self.push * float(np.sum(action)) + self.random.normal(scale=0.1)
        )
        self.time += 1
        return self._show(), 1 - abs(self.place), abs(self.place) > 1, False, {}

    def _show(self):
        self.shown[:] = self.place, self.time  # into the same memory, as some environments do
        return self.shown


class Rooms(Walk):
    """Numbered observations, and numbers (2, 1) as actions."""

    acts = space("Box", (2, 1), np.float64, low=np.full((2, 1), -1.0), high=np.full((2, 1), 2.0))
    shows = space("Discrete", n=5, start=3)

    def step(self, action):
        assert (action.shape, action.dtype) == ((2, 1), np.float64)
        return super().step(action)

    def _show(self):
        return 3 + min(int(abs(self.place) * 4), 4)


@pytest.fixture
def walk(monkeypatch):
    """Gymnasium, which has `Walk` alone, as it is before anything was made."""
    return installed(monkeypatch, Walk)


def installed(monkeypatch, kind):
    def make(name, max_episode_steps, disable_env_checker, **options):
        assert (name, max_episode_steps, disable_env_checker) == ("Walk-v0", -1, True)
        return kind(**options)

    fake = types.ModuleType("gymnasium")
    fake.make, fake.spec = make, lambda name: types.SimpleNamespace(max_episode_steps=kind.limit)
    monkeypatch.setitem(sys.modules, "gymnasium", fake)
    kind.forgotten()
    return kind


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def equal(a, b):
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        np.testing.assert_array_equal(one, other)


def test_gymnax_steps_and_its_time_limit_does_not_terminate():
    environment = from_gymnax(Gymnax())
    assert (environment.actions, environment.limit) == (Discrete(2), 7)
    episodes, found = begin(environment, keys(2)), []
    for n in range(8):
        episodes, moved = move(environment, episodes, jnp.asarray([1, 0]), keys(2, n))
        found.append(moved)
    steps = jax.tree.map(lambda *leaves: np.stack(leaves), *found)
    np.testing.assert_array_equal(steps.after[:, 0, 0], [1, 2, 3, 4, 5, 1, 2, 3])
    np.testing.assert_array_equal(np.flatnonzero(steps.terminated[:, 0]), [4])
    np.testing.assert_array_equal(np.flatnonzero(steps.over[:, 1]), [6])
    assert not steps.terminated[:, 1].any()
    assert steps.reward.dtype == steps.after.dtype == np.float32
    np.testing.assert_array_equal(steps.reward, np.tile([2, 0], (8, 1)))
    before = jax.eval_shape(environment.reset, keys(1)[0])
    assert (
        jax.eval_shape(environment.step, before, jnp.asarray(1), keys(1)[0])[0] == before
    )  # types of one kind
    assert from_gymnax(Gymnax(), Params(pace=5)).step(*started(environment), keys(1)[0])[2]


def started(environment):
    return environment.reset(jax.random.key(0)), jnp.asarray(1)


def test_gymnax_takes_numbers_of_any_shape():
    environment = from_gymnax(Torques())
    assert environment.actions == Box((-2.0, -2.0), (1.0, 4.0))
    state = environment.reset(jax.random.key(0))
    done = environment.actions.done(jnp.asarray([1.0, -1.0]))
    state, reward, _ = environment.step(state, done, jax.random.key(1))
    np.testing.assert_array_equal(environment.observe(state), [1, -2])
    assert float(reward) == 1
    assert state[1]["place"] == -1


def test_gymnax_of_today_keeps_its_params():
    """`done` does not tell of the time limit there, and some environments show the share of it that has passed."""

    class Timed(Torques):
        def is_truncated(self, state, params):
            raise AssertionError

        def step_env(self, key, state, action, params):
            shown = jnp.full(2, 1 / params.max_steps_in_episode)
            return shown, state, jnp.zeros(()), jnp.asarray(False), {}

    environment = from_gymnax(Timed())
    state, _, _ = environment.step(
        environment.reset(jax.random.key(0)), jnp.zeros(2), jax.random.key(1)
    )
    np.testing.assert_allclose(environment.observe(state), 1 / 7)


@pytest.mark.parametrize("make", ["dqn", "ppo"])
def test_gymnax_is_learnt(make):
    environment = from_gymnax(Gymnax())
    if make == "ppo":
        learner = jdl.ppo(environment, ActorCritic(2), optax.adam(1e-2), horizon=16)
    else:
        learner = jdl.dqn(
            environment, MLP(2, (16,)), optax.adam(1e-2), lambda step: 0.3, 4, 256, 32, begins=5
        )
    state = trained(learner, 20 if make == "ppo" else 150)
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


def walked(kind, seed, actions, **options):
    """What the environment itself shows and pays after each action, and whether it ends."""
    env = kind(**options)
    found = [(np.array(env.reset(seed=seed)[0]), 0.0, False)]
    for action in actions:
        seen, reward, terminated, _, _ = env.step(action)
        found.append((np.array(seen), reward, terminated))
    return found


def test_gymnasium_steps_as_it_does_itself_and_its_limit_does_not_terminate(walk):
    environment = from_gymnasium("Walk-v0", push=0.2)
    assert (environment.actions, environment.limit) == (Discrete(3), 40)
    rows, length = 4, 90
    episodes = begin(environment, keys(rows))
    policy = lambda x, keys: jax.vmap(lambda key: jax.random.randint(key, (), 0, 3))(keys)  # noqa: E731
    _, steps = jax.jit(lambda: rollout(environment, policy, episodes, keys(rows, 1), length))()
    steps = jax.tree.map(np.asarray, steps)
    ends = steps.moved.over
    assert (ends & ~steps.moved.terminated).any() and steps.moved.terminated.any()  # noqa: PT018
    np.testing.assert_array_equal(
        ends & ~steps.moved.terminated, (steps.moved.length == 40) & ~steps.moved.terminated
    )
    for row in range(rows):
        last = np.flatnonzero(ends[:, row])[0]
        found = walked(
            walk, int(episodes.state["seed"][row]), steps.action[: last + 1, row] - 1, push=0.2
        )
        for n in range(last + 1):
            np.testing.assert_array_equal(steps.x[n, row], found[n][0].astype(np.float32))
            np.testing.assert_array_equal(
                steps.moved.after[n, row], found[n + 1][0].astype(np.float32)
            )
            assert steps.moved.reward[n, row] == np.float32(found[n + 1][1])
            assert steps.moved.terminated[n, row] == found[n + 1][2]


def test_gymnasium_takes_numbers_and_shows_numbers(monkeypatch):
    kind = installed(monkeypatch, Rooms)
    environment = from_gymnasium("Walk-v0", limit=9)
    assert (environment.actions, environment.limit) == (Box((-1.0, -1.0), (2.0, 2.0)), 9)
    state = environment.reset(jax.random.key(0))
    assert (state["actions"].shape, state["actions"].dtype) == ((9, 2), np.float32)
    actions = np.random.default_rng(0).uniform(-1, 2, (5, 2)).astype(np.float32)
    found = walked(kind, int(state["seed"]), actions.astype(float).reshape(5, 2, 1))
    for n, action in enumerate(actions):
        np.testing.assert_array_equal(environment.observe(state), np.arange(3, 8) == found[n][0])
        state, reward, terminated = environment.step(state, jnp.asarray(action), jax.random.key(n))
        assert (float(reward), bool(terminated)) == (np.float32(found[n + 1][1]), found[n + 1][2])


def test_what_is_seen_does_not_depend_on_what_was_asked_before(walk):
    """States of a few episodes of one start that part, asked for in any order, of a pool that is too small."""
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
        horizon=16,
        epochs=2,
        minibatches=2,
        **options,
    )


def test_a_state_goes_on_with_a_fresh_object_to_the_bit(walk):
    whole, stopped = trained(ppo(), 6), trained(ppo(), 3)
    assert (np.asarray(stopped.opt_state.episodes.length) > 0).any()  # in the midst of episodes
    equal(trained(ppo(), 3, jax.tree.map(jnp.array, stopped)), whole)


def test_evaluation_changes_nothing(walk):
    learner, batch = ppo(), jdl.data.episodes(4)[0]
    loss = jax.jit(learner.objective.loss, static_argnums=3)
    alone, watched, returns = trained(learner, 5), trained(learner, 0), []
    for _ in range(5):
        returns.append(loss(learner.eval_variables(watched), batch, jax.random.key(7), False).loss)
        watched = trained(learner, 1, watched)
    equal(watched, alone)
    again = loss(learner.eval_variables(trained(ppo(), 0)), batch, jax.random.key(7), False).loss
    equal(returns[0], again)
    assert len({float(found.total) for found in returns}) > 1


def test_copies_are_stepped_and_not_replayed(walk):
    """A step costs a step, and a reset only begins an episode, also where the policy does not look."""
    environment, rows, length = from_gymnasium("Walk-v0", push=0.0, limit=300), 6, 200
    for look in (True, False):
        episodes = begin(environment, keys(rows))
        walk.forgotten()

        def choose(x, keys, look=look):
            return (x[:, 0] > 0).astype(jnp.int32) if look else jnp.zeros(rows, jnp.int32)

        ends = jax.jit(
            lambda: rollout(environment, choose, episodes, keys(rows, 1), length)[1].moved.over
        )()  # noqa: B023
        assert rows * length - 10 * rows <= walk.steps <= rows * length
        assert walk.resets <= rows + int(ends.sum())
        assert walk.made <= 64
    states = [environment.reset(jax.random.key(5))]
    walk.forgotten()
    for _ in range(2):  # an earlier point as well
        seen = environment.observe(states[0])
        states.append(environment.step(states[0], jnp.asarray(1), jax.random.key(6))[0])
    np.testing.assert_array_equal(environment.observe(states[0]), seen)
    assert (walk.resets, walk.steps) == (1, 1)


def test_a_population_asks_once_for_all_rows(walk, monkeypatch):
    asked, each = [], adapters._Copies._all
    monkeypatch.setattr(
        adapters._Copies,
        "_all",
        lambda self, *given: asked.append(given[2].shape) or each(self, *given),
    )
    many = jdl.population(ppo(), (3, 0))
    state = trained(many, 2)
    assert set(asked) == {(2, 4)}
    assert (
        len(asked) <= 1 + 2 * 3 * 16
    )  # seen before, earned and seen after, for each step of the horizon
    out = many.objective.loss(
        many.eval_variables(state), jdl.data.episodes(3)[0], jax.random.key(1), False
    )
    assert scalars(out.metrics)["length/min"] > 0
    alone = trained(ppo(), 0)
    assert state.opt_state.episodes.state["seed"].shape == (
        2,
        *alone.opt_state.episodes.state["seed"].shape,
    )


def kinds(acts=Walk.acts, shows=Walk.shows, **more):
    """Another class than `Walk`, of other spaces."""
    return type("Other", (Walk,), {"acts": acts, "shows": shows, **more})


def made(monkeypatch, kind, **options):
    installed(monkeypatch, kind)
    return from_gymnasium("Walk-v0", **options)


def missing(monkeypatch, name, make):
    monkeypatch.setitem(sys.modules, name, None)
    make()


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
    "Walk-v0 takes actions of .*MultiBinary": lambda patch: made(
        patch, kinds(space("MultiBinary", (3,), np.int8, n=3))
    ),
    "finite bounds": lambda patch: made(patch, kinds(space("Box", (1,), low=-np.inf, high=1.0))),
    "a Box of floats": lambda patch: made(
        patch, kinds(space("Box", (1,), np.uint8, low=0, high=9))
    ),
    r"shows observations of Dict\(a, b\)": lambda patch: made(patch, kinds(shows=Dict())),
    "without a time limit.*limit=": lambda patch: made(patch, kinds(limit=None)),
    "at least 1 step, and 0": lambda patch: made(patch, Walk, limit=0),
    "does not do the same again": lambda patch: made(patch, kinds(repeats=False)),
    r"takes actions of Dict\(a, b\)": lambda patch: gymnax(acts=Dict()),
    "no max_steps_in_episode": lambda patch: gymnax(default_params=types.SimpleNamespace()),
    "shows dict": lambda patch: gymnax(reset_env=lambda *_: ({"a": jnp.zeros(1)}, {})),
}


@pytest.mark.parametrize("told", REFUSED)
def test_refuses(told, monkeypatch):
    with pytest.raises(Error, match=told):
        REFUSED[told](monkeypatch)


def test_refuses_steps_after_the_limit(walk):
    environment = from_gymnasium("Walk-v0", limit=2)
    state = {**environment.reset(jax.random.key(0)), "count": jnp.asarray(2)}
    with pytest.raises(Exception, match="after its limit of 2 steps"):
        jax.block_until_ready(environment.step(state, jnp.asarray(1), jax.random.key(1)))


@pytest.mark.parametrize("library", ["gymnax", "gymnasium"])
def test_cartpole_of_each_library_is_ours(library):
    pytest.importorskip(library)
    other = from_gymnax("CartPole-v1") if library == "gymnax" else from_gymnasium("CartPole-v1")
    ours = jdl.environments.cartpole()
    assert (other.actions, other.limit) == (ours.actions, ours.limit)
    step, mine = jax.jit(other.step), jax.jit(ours.step)
    for start in range(3):
        state, fallen, n = other.reset(jax.random.key(start)), False, 0
        assert float(jnp.abs(other.observe(state)).max()) <= 0.05
        while not fallen:
            x, action = other.observe(state), jnp.asarray(n * n // 3 % 2)
            state, reward, fallen = step(state, action, jax.random.key(n))
            after, paid, fell = mine(x, action, jax.random.key(n))
            np.testing.assert_allclose(other.observe(state), after, atol=1e-5)
            assert (float(reward), bool(fallen)) == (float(paid), bool(fell))
            n += 1
        assert 5 < n < 100


@pytest.mark.parametrize("library", ["gymnax", "gymnasium"])
def test_cartpole_of_each_library_is_cut_off_after_its_limit(library):
    """By a policy that holds the pole."""
    pytest.importorskip(library)
    other = from_gymnax("CartPole-v1") if library == "gymnax" else from_gymnasium("CartPole-v1")
    hold = lambda x, keys: (x @ jnp.asarray([0.1, 0.3, 1.0, 0.6]) > 0).astype(jnp.int32)  # noqa: E731
    _, steps = jax.jit(lambda: rollout(other, hold, begin(other, keys(2)), keys(2, 1), 501))()
    assert not steps.moved.terminated.any()
    np.testing.assert_array_equal(np.flatnonzero(steps.moved.over[:, 0]), [499])
    assert steps.moved.total[499, 0] == 500


def test_cartpole_of_gymnasium_is_learnt_and_goes_on_to_the_bit():
    pytest.importorskip("gymnasium")

    def learner():
        return jdl.ppo(from_gymnasium("CartPole-v1"), ActorCritic(2), optax.adam(1e-2), horizon=32)

    equal(trained(learner(), 2, trained(learner(), 2)), trained(learner(), 4))
