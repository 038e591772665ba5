"""A transformer over patches of a time series, after PatchTST."""

import flax.linen as nn
import jax

from jdl.errors import Error
from jdl.layers import Dense, Dropout
from jdl.models.transformer import TransformerConfig, TransformerStack


class PatchTransformer(nn.Module):
    """Transformer for time series by patches (PatchTST; Nie et al., 2023): x to (B, outputs).

    The series x (B, T, ...) is cut into patches of `patch_length` steps, each one token of an
    encoder; the head reads all tokens. Unlike PatchTST's, a patch holds all columns of its steps,
    so that covariates such as the calendar inform the forecast, patches do not overlap, and a
    window is not normalized by its own mean. Position embeddings are learned; `config.rotary` adds
    rotary ones.
    """

    outputs: int
    patch_length: int = 24
    config: TransformerConfig = TransformerConfig(width=64, depth=2, rotary=False)

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """x (B, T, ...), T a multiple of the patches' length, to (B, outputs)."""
        c, (rows, steps) = self.config, x.shape[:2]
        if steps % self.patch_length:
            raise Error(
                f"A series of {steps} steps cannot be cut into patches of {self.patch_length}: "
                "choose a context that is a multiple of patch_length."
            )
        x = Dense(c.width, name="patches")(x.reshape(rows, steps // self.patch_length, -1))
        positions = self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        x = TransformerStack(c, name="stack")(Dropout(c.dropout)(x + positions, train), train=train)
        return Dense(self.outputs, name="head")(x.reshape(rows, -1))
