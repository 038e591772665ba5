"""The multi-layer perceptron (MLP); without hidden layers, linear or logistic regression."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax

from jdl.layers import Dropout


class MLP(nn.Module):
    """Multi-layer perceptron (feed-forward network): x (B, ...), flattened, to (B, outputs).

    Dense layers of the widths `hidden`, each followed by `activation` and dropout, then one of
    `outputs`. Without `hidden` it is a perceptron, or logistic or linear regression, depending on
    the objective.
    """

    outputs: int
    hidden: Sequence[int] = ()
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    dropout: float = 0.0
    use_bias: bool = True

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """x (B, ...) to (B, outputs)."""
        x = x.reshape(x.shape[0], -1)
        for width in self.hidden:
            dense = nn.Dense(width, self.use_bias, kernel_init=nn.initializers.he_normal())
            x = self.activation(dense(x))
            x = Dropout(self.dropout)(x, train)
        return nn.Dense(self.outputs, self.use_bias)(x)
