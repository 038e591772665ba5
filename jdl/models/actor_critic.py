"""The actor and the critic of policy gradients: two perceptrons that share nothing."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp


class ActorCritic(nn.Module):
    """Observations (B, ...) to a policy (B, outputs + free) and values (B,), each by layers of the widths `hidden`.

    `free` numbers of the policy are parameters that no observation moves, 0 at first: the logs of the standard
    deviations of actions that are numbers. Orthogonal weights; the policy's last are small, so that it begins with no
    preference (as in Stable-Baselines3, and Huang et al., "The 37 implementation details of PPO", 2022).
    """

    outputs: int
    hidden: Sequence[int] = (64, 64)
    free: int = 0
    activation: Callable[[jax.Array], jax.Array] = nn.tanh

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """x (B, ...) to the policy (B, outputs + free) and the values (B,)."""
        x = x.reshape(len(x), -1)
        policy = self._tower("actor", x, self.outputs, 0.01)
        if self.free:
            free = self.param("free", nn.initializers.zeros, (self.free,))
            policy = jnp.concatenate(
                [policy, jnp.broadcast_to(free[None], (len(x), self.free))], -1
            )
        return policy, self._tower("critic", x, 1, 1.0)[:, 0]

    def _tower(self, name: str, x: jax.Array, outputs: int, scale: float) -> jax.Array:
        for n, width in enumerate(self.hidden):
            init = nn.initializers.orthogonal(2**0.5)
            x = self.activation(nn.Dense(width, kernel_init=init, name=f"{name}_{n}")(x))
        return nn.Dense(outputs, kernel_init=nn.initializers.orthogonal(scale), name=f"{name}_out")(
            x
        )
