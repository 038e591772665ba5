"""Actor-critic networks for policy gradients (PPO, A2C, REINFORCE)."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp


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
