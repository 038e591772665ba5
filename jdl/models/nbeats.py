"""N-BEATS: fully connected blocks that each explain a part of the past and of the forecast."""

import flax.linen as nn
import jax

from jdl.layers import Dense, Dropout


class NBEATS(nn.Module):
    """N-BEATS (Oreshkin et al., 2020), of generic blocks: x (B, T, ...) to forecasts (B, outputs).

    Each of the `blocks` is an MLP of `layers` layers of `width`, from which two times `basis`
    numbers weight learned basis vectors: those of the backcast, its part of the past x, and those
    of its part of the forecast. The next block reads what the backcasts so far leave of the past;
    the forecast is the sum of all parts (doubly residual stacking). Several columns are one long
    past, flattened. The last block has no backcast, as nothing reads it.
    """

    outputs: int
    blocks: int = 6
    layers: int = 4
    width: int = 256
    basis: int = 32
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """x (B, T, ...) to (B, outputs)."""
        past, parts = x.reshape(x.shape[0], -1), []
        for n in range(self.blocks):
            hidden = past
            for layer in range(self.layers):
                init = nn.initializers.he_normal()
                hidden = Dense(self.width, kernel_init=init, name=f"block_{n}_{layer}")(hidden)
                hidden = Dropout(self.dropout)(nn.relu(hidden), train)
            parts.append(self._expand(hidden, self.outputs, f"forecast_{n}"))
            if n < self.blocks - 1:
                past = past - self._expand(hidden, past.shape[-1], f"backcast_{n}")
        return sum(parts[1:], parts[0])

    def _expand(self, hidden: jax.Array, size: int, name: str) -> jax.Array:
        """A sum (B, size) of basis vectors, weighted by coefficients of the hidden layer."""
        coefficients = Dense(self.basis, use_bias=False, name=f"{name}_coefficients")(hidden)
        return Dense(size, name=f"{name}_basis")(coefficients)
