"""Fakes of other libraries: spaces, and an environment of Gymnasium."""

import sys
import types

import numpy as np


def space(kind, shape=(), dtype=np.float32, **more):
    """A space of a class of this name, by which the libraries' own are recognised too."""
    return type(kind, (), {"shape": shape, "dtype": dtype, **more})()


class Dict:
    """A space that jdl takes from neither library."""

    def __repr__(self):
        return "Dict(a, b)"


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


def install(monkeypatch, kind):
    """A fake of Gymnasium that has this kind alone."""

    def make(name, max_episode_steps, disable_env_checker, **options):
        assert (name, max_episode_steps, disable_env_checker) == ("Walk-v0", -1, True)
        return kind(**options)

    fake = types.ModuleType("gymnasium")
    fake.make, fake.spec = make, lambda name: types.SimpleNamespace(max_episode_steps=kind.limit)
    monkeypatch.setitem(sys.modules, "gymnasium", fake)
    kind.reset_counts()
    return kind


def missing(monkeypatch, library, call):
    """Calls it where this library is not installed."""
    monkeypatch.setitem(sys.modules, library, None)
    call()
