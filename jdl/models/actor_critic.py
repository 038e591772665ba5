"""Actor-critic networks for policy gradients (PPO, A2C, REINFORCE), with and without memory."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.layers import GRU, Cell
from jdl.layers.recurrence import States
from jdl.models.rnn import RecurrentLayer, initial_states


class ActorCritic(nn.Module):
    """Actor-critic: a policy (actor) and a value function (critic) that share no weights.

    Observations (B, ...) give the policy's parameters (B, outputs + log_stds) and values (B,), each
    by an MLP with layers of the widths `hidden`. For discrete actions the policy is `outputs`
    logits; for continuous ones it is `outputs` means, and `log_stds` logarithms of standard
    deviations: parameters that do not depend on the state, initially 0. Orthogonal initialization;
    the policy's last layer begins small, so that at first it prefers no action (as in
    Stable-Baselines3, and Huang et al., "The 37 implementation details of PPO", 2022).
    """

    outputs: int
    hidden: Sequence[int] = (64, 64)
    log_stds: int = 0
    activation: Callable[[jax.Array], jax.Array] = nn.tanh

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """x (B, ...) to the policy (B, outputs + log_stds) and the values (B,)."""
        rows = x.shape[0]
        x = x.reshape(rows, -1)
        policy = self._mlp("actor", x, self.outputs, 0.01)
        if self.log_stds:
            log_std = self.param("log_std", nn.initializers.zeros, (self.log_stds,))
            log_std = jnp.broadcast_to(log_std[None], (rows, self.log_stds))
            policy = jnp.concatenate([policy, log_std], -1)
        return policy, self._mlp("critic", x, 1, 1.0)[:, 0]

    def _mlp(self, name: str, x: jax.Array, outputs: int, scale: float) -> jax.Array:
        orthogonal = nn.initializers.orthogonal
        for n, width in enumerate(self.hidden):
            dense = nn.Dense(width, kernel_init=orthogonal(2**0.5), name=f"{name}_{n}")
            x = self.activation(dense(x))
        return nn.Dense(outputs, kernel_init=orthogonal(scale), name=f"{name}_out")(x)


class RecurrentActorCritic(nn.Module):
    """Recurrent actor-critic: a policy and a value function with hidden states, for `jdl.ppo`.

    The features that `body` gives for each observation, such as an MLP, or a CNN for pixels, go
    into a recurrent layer of `width` units, by default a GRU; its outputs into an `ActorCritic` of
    `outputs`, `hidden` and `log_stds`. So an action depends on all that the episode has shown, as
    is needed where one observation does not tell the state (a partially observable environment,
    POMDP; Hausknecht and Stone, 2015).

    Any model with `initial_states` and a call like these is a recurrent policy.
    """

    outputs: int
    body: nn.Module
    width: int = 64
    cell: Cell = GRU
    hidden: Sequence[int] = ()
    log_stds: int = 0
    activation: Callable[[jax.Array], jax.Array] = nn.tanh

    @nn.compact
    def __call__(
        self, x: jax.Array, start: jax.Array, states: States, train: bool = False
    ) -> tuple[tuple[jax.Array, jax.Array], States]:
        """Sequences x (B, T, ...), from the hidden states before them, to those after them.

        Gives the policies (B, T, outputs + log_stds) and the values (B, T), and the states. Before
        steps where `start` (B, T) is true, the first ones of an episode, the states are reset to
        zeros.
        """
        rows, steps = x.shape[:2]
        features = self.activation(self.body(x.reshape(rows * steps, *x.shape[2:]), train))
        layer = RecurrentLayer(self.width, self.cell, name="memory")
        out, states = layer(features.reshape(rows, steps, -1), states=states, start=start)
        heads = ActorCritic(self.outputs, self.hidden, self.log_stds, self.activation, name="heads")
        policy, value = heads(out.reshape(rows * steps, -1))
        return (policy.reshape(rows, steps, -1), value.reshape(rows, steps)), states

    def initial_states(self, rows: int) -> States:
        """The hidden states at the beginning of an episode: zeros, (rows, width) each."""
        return initial_states(self.cell, rows, self.width, jnp.float32)
