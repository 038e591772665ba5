"""ViT: the vision transformer, for an image as a sequence of patches."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.errors import Error
from jdl.layers import Dense, Dropout, pixel_unshuffle
from jdl.models.transformer import TransformerConfig, TransformerStack

POOLING: dict[str, tuple[str, ...]] = {  # by its name, the tokens before the patches
    "mean": (),
    "class": ("class_token",),
    "class and mean": ("class_token",),
    "distilled": ("class_token", "distillation_token"),
}


class ViT(nn.Module):
    """Vision transformer (Dosovitskiy et al., 2021): images (B, H, W, C) to (B, outputs).

    The image is cut into patches of `patch_size` x `patch_size` pixels. Position embeddings are
    learned, whatever `config.rotary` says. The head reads by `pooling`

    - "mean": the mean over the patches (global average pooling, Beyer et al., 2022);
    - "class": the class token, which stands before the patches, as published;
    - "class and mean": both, one after the other (DINOv2, Oquab et al., 2023);
    - "distilled": the class token, and a second head the distillation token; their outputs are
      averaged (DeiT, Touvron et al., 2021).

    With `outputs=None` there is no head, and the model gives what the head would read. With
    `embedding_norm` the patches have no bias, and a layer norm follows the embeddings, as in CLIP.
    """

    outputs: int | None
    patch_size: int = 4
    config: TransformerConfig = TransformerConfig()
    pooling: str = "mean"
    embedding_norm: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """x (B, H, W, C) to (B, outputs)."""
        if self.pooling not in POOLING:
            raise Error(f"pooling must be one of {', '.join(POOLING)}, not {self.pooling!r}.")
        c, tokens = self.config, POOLING[self.pooling]
        x = embed_patches(self, x, self.patch_size, c.width, tokens, not self.embedding_norm)
        x = c.norm(name="embedding_norm")(x) if self.embedding_norm else x
        x = TransformerStack(c, name="stack")(Dropout(c.dropout)(x, train), train=train)
        if self.pooling == "distilled":
            return self._distilled(x[:, 0], x[:, 1])
        means = [x[:, len(tokens) :].mean(1)] if "mean" in self.pooling else []
        pooled = jnp.concatenate([*(x[:, n] for n in range(len(tokens))), *means], -1)
        return pooled if self.outputs is None else Dense(self.outputs, name="head")(pooled)

    def _distilled(self, class_token: jax.Array, distillation_token: jax.Array) -> jax.Array:
        """The mean of the outputs of two heads; without heads that of both tokens."""
        out, other = class_token, distillation_token
        if self.outputs is not None:
            out = Dense(self.outputs, name="head")(out)
            other = Dense(self.outputs, name="distillation_head")(other)
        return (out + other) / 2


def _check_patches(known: int, shape: tuple[int, ...], patch_size: int) -> None:
    """Raises `Error` where images have another number of patches than there are positions."""
    _, height, width, _ = shape
    if height * width != known:
        side = math.isqrt(known)
        square = f", as images of {side * patch_size} x {side * patch_size} pixels have them"
        raise Error(
            f"This model has positions for {known} patches of {patch_size} x {patch_size} pixels"
            f"{square if side**2 == known else ''}, and images of {height * patch_size} x "
            f"{width * patch_size} have {height * width}: resize the images."
        )


def embed_patches(
    module: nn.Module,
    x: jax.Array,
    patch_size: int,
    width: int,
    tokens: Sequence[str] = (),
    use_bias: bool = True,
) -> jax.Array:
    """Patch and position embeddings of images x (B, H, W, C): (B, N, width).

    Within a compact method of `module`, which gets the parameters "patches" and "positions", and
    one for each of `tokens`: learned vectors that stand before the patches.
    """
    init, rows = nn.initializers.normal(0.02), x.shape[0]
    patches = pixel_unshuffle(x, patch_size)
    if module.has_variable("params", "positions"):
        known = module.get_variable("params", "positions").shape[1] - len(tokens)
        _check_patches(known, patches.shape, patch_size)
    x = Dense(width, use_bias, name="patches")(patches.reshape(rows, -1, patches.shape[-1]))
    vectors = (module.param(name, init, (1, 1, width)) for name in tokens)
    before = [jnp.broadcast_to(v, (rows, 1, width)).astype(x.dtype) for v in vectors]
    x = jnp.concatenate([*before, x], 1)
    return x + module.param("positions", init, (1, *x.shape[1:]))
