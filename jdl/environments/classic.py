"""Two classic problems of control, by the equations and numbers of Gymnasium's CartPole-v1 and Pendulum-v1."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jdl.environments.actions import Box, Discrete
from jdl.environments.environment import Environment
from jdl.types import Array, Key


def cartpole() -> Environment:
    """A pole on a cart that is pushed left (0) or right (1): reward 1 a step until it falls, at most 500.

    Seen are the cart's place and speed, the pole's angle and its speed, in m and radians (Barto, Sutton and Anderson,
    1983).
    """
    gravity, pole, length, force, tau = (
        9.8,
        0.1,
        0.5,
        10.0,
        0.02,
    )  # m/s^2, kg, m to the pole's middle, N, s
    mass = 1.0 + pole  # with the cart, kg

    def reset(key: Key) -> Array:
        return jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05)

    def step(state: Array, action: Array, key: Key) -> tuple[Array, Array, Array]:
        place, speed, angle, turn = state
        push = jnp.where(action == 1, force, -force)
        sine, cosine = jnp.sin(angle), jnp.cos(angle)
        pushed = (push + pole * length * jnp.square(turn) * sine) / mass
        turned = (gravity * sine - cosine * pushed) / (
            length * (4 / 3 - pole * jnp.square(cosine) / mass)
        )
        moved = pushed - pole * length * turned * cosine / mass
        state = jnp.stack(
            [place + tau * speed, speed + tau * moved, angle + tau * turn, turn + tau * turned]
        )
        fallen = (jnp.abs(state[0]) > 2.4) | (jnp.abs(state[2]) > jnp.pi * 12 / 180)
        return state, jnp.ones(()), fallen

    return Environment(reset, step, lambda state: state, Discrete(2), limit=500)


def pendulum() -> Environment:
    """A pendulum to be swung up and held by a torque of at most 2 Nm: 200 steps, each of which costs up to 16.3.

    Seen are the cosine and sine of its angle, 0 upwards, and its speed. A step costs the angle^2, 0.1 speed^2 and
    0.001 torque^2.
    """
    gravity, mass, length, tau, fastest = 10.0, 1.0, 1.0, 0.05, 8.0  # m/s^2, kg, m, s, 1/s

    def reset(key: Key) -> Array:
        most = jnp.asarray([jnp.pi, 1.0])
        return jax.random.uniform(key, (2,), minval=-most, maxval=most)

    def step(state: Array, action: Array, key: Key) -> tuple[Array, Array, Array]:
        angle, speed = state
        torque = action[0]
        off = (angle + jnp.pi) % (2 * jnp.pi) - jnp.pi
        cost = jnp.square(off) + 0.1 * jnp.square(speed) + 0.001 * jnp.square(torque)
        turned = 3 * gravity / (2 * length) * jnp.sin(angle) + 3 / (mass * length**2) * torque
        speed = (speed + tau * turned).clip(-fastest, fastest)
        return jnp.stack([angle + tau * speed, speed]), -cost, jnp.zeros((), bool)

    def observe(state: Array) -> Array:
        return jnp.stack([jnp.cos(state[0]), jnp.sin(state[0]), state[1]])

    return Environment(reset, step, observe, Box((-2.0,), (2.0,)), limit=200)
