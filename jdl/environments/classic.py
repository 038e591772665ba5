"""Classic control: the equations and constants of Gymnasium's CartPole-v1 and Pendulum-v1."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jdl.environments.actions import Box, Discrete
from jdl.environments.environment import Environment
from jdl.types import Array, Key


def cartpole() -> Environment:
    """CartPole-v1: balance a pole on a cart that is pushed left (0) or right (1).

    The reward is 1 a step until the pole falls, for at most 500 steps. Observed are the cart's
    position and velocity, and the pole's angle and angular velocity, in m, rad and s (Barto, Sutton
    and Anderson, 1983).
    """
    return Environment(_reset_cartpole, _step_cartpole, lambda state: state, Discrete(2), 500)


CART_GRAVITY = 9.8  # m/s^2
POLE_MASS = 0.1  # kg
POLE_HALF_LENGTH = 0.5  # m
TOTAL_MASS = 1.0 + POLE_MASS  # kg, with the cart
CART_FORCE = 10.0  # N
CART_DT = 0.02  # s
MAX_POSITION, MAX_ANGLE = 2.4, jnp.pi * 12 / 180  # m and rad: beyond these the pole has fallen


def _reset_cartpole(key: Key) -> Array:
    return jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05)


def _step_cartpole(state: Array, action: Array, key: Key) -> tuple[Array, Array, Array]:
    _, x_dot, theta, theta_dot = state
    force = jnp.where(action == 1, CART_FORCE, -CART_FORCE)
    sin, cos = jnp.sin(theta), jnp.cos(theta)
    push = (force + POLE_MASS * POLE_HALF_LENGTH * jnp.square(theta_dot) * sin) / TOTAL_MASS
    theta_acc = (CART_GRAVITY * sin - cos * push) / (
        POLE_HALF_LENGTH * (4 / 3 - POLE_MASS * jnp.square(cos) / TOTAL_MASS)
    )
    x_acc = push - POLE_MASS * POLE_HALF_LENGTH * theta_acc * cos / TOTAL_MASS
    rates = (x_dot, x_acc, theta_dot, theta_acc)
    state = jnp.stack([s + CART_DT * rate for s, rate in zip(state, rates, strict=True)])
    fallen = (jnp.abs(state[0]) > MAX_POSITION) | (jnp.abs(state[2]) > MAX_ANGLE)
    return state, jnp.ones(()), fallen


def pendulum() -> Environment:
    """Pendulum-v1: swing a pendulum up and hold it by a torque of at most 2 Nm, for 200 steps.

    The reward of a step is -(angle^2 + 0.1 velocity^2 + 0.001 torque^2), at least -16.3. Observed
    are the cosine and the sine of the angle, which is 0 upwards, and the angular velocity in
    rad/s.
    """
    space = Box((-PENDULUM_TORQUE,), (PENDULUM_TORQUE,))
    return Environment(_reset_pendulum, _step_pendulum, _observe_pendulum, space, 200)


PENDULUM_GRAVITY = 10.0  # m/s^2
PENDULUM_MASS = 1.0  # kg
PENDULUM_LENGTH = 1.0  # m
PENDULUM_TORQUE = 2.0  # Nm
PENDULUM_SPEED = 8.0  # rad/s, at most
PENDULUM_DT = 0.05  # s


def _reset_pendulum(key: Key) -> Array:
    high = jnp.asarray([jnp.pi, 1.0])
    return jax.random.uniform(key, (2,), minval=-high, maxval=high)


def _step_pendulum(state: Array, action: Array, key: Key) -> tuple[Array, Array, Array]:
    theta, theta_dot = state
    torque = action[0]
    angle = (theta + jnp.pi) % (2 * jnp.pi) - jnp.pi
    cost = jnp.square(angle) + 0.1 * jnp.square(theta_dot) + 0.001 * jnp.square(torque)
    theta_acc = (
        3 * PENDULUM_GRAVITY / (2 * PENDULUM_LENGTH) * jnp.sin(theta)
        + 3 / (PENDULUM_MASS * PENDULUM_LENGTH**2) * torque
    )
    theta_dot = (theta_dot + PENDULUM_DT * theta_acc).clip(-PENDULUM_SPEED, PENDULUM_SPEED)
    return jnp.stack([theta + PENDULUM_DT * theta_dot, theta_dot]), -cost, jnp.zeros((), bool)


def _observe_pendulum(state: Array) -> Array:
    return jnp.stack([jnp.cos(state[0]), jnp.sin(state[0]), state[1]])
