"""Dueling Q-networks, around any body: an MLP for vectors, a CNN for pixels."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax

from jdl.models.mlp import MLP


class Dueling(nn.Module):
    """Dueling network (Wang et al., 2016): Q = value + advantage - mean advantage.

    The features that `body` gives for observations (B, ...) go into two streams, each an MLP with
    layers of the widths `hidden`: one for the value of the observation, one for the advantages of
    the `actions`. That the advantages have the mean 0 makes the sum unique. The result is the
    Q-values (B, actions).
    """

    actions: int
    body: nn.Module
    hidden: Sequence[int] = ()
    activation: Callable[[jax.Array], jax.Array] = nn.relu

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """x (B, ...) to Q-values (B, actions)."""
        features = self.activation(self.body(x, train, mask))
        value = MLP(1, self.hidden, self.activation, name="value")(features, train, mask)
        advantage = MLP(self.actions, self.hidden, self.activation, name="advantage")(
            features, train, mask
        )
        return value + advantage - advantage.mean(-1, keepdims=True)
