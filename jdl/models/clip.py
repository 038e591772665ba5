"""CLIP: a tower of images and one of texts, which give vectors of one space."""

from __future__ import annotations

import inspect
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.layers import Dense
from jdl.models.transformer import TokenEmbedding, TransformerConfig, TransformerStack


class CLIP(nn.Module):
    """CLIP (Radford et al., 2021): images (B, H, W, C) or texts (B, T) to vectors (B, width).

    Both kinds of input are for the same argument: tokens, of two axes, are read by the tower
    `text`, and images by the tower `image`. A tower is any model that gives features (B, F); a
    dense layer without a bias takes them to `width`. The vectors of an image and of a text that
    fits it point in the same direction: `jdl.objectives.contrastive(model)` trains that, and with
    it "log_scale", the log of what the cosines are multiplied by (the inverse of the temperature).
    Zero-shot classification asks which text, such as "a photo of a cat", is nearest to an image.
    `image_shape` is the shape of an image, (H, W, C).
    """

    image: nn.Module
    text: nn.Module
    width: int = 512
    image_shape: tuple[int, int, int] = (224, 224, 3)

    def setup(self) -> None:
        """The projections of both towers, and the scale."""
        self.image_projection = Dense(self.width, use_bias=False)
        self.text_projection = Dense(self.width, use_bias=False)
        self.log_scale = self.param("log_scale", nn.initializers.constant(-math.log(0.07)), ())

    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """Images (B, H, W, C) or tokens (B, T) to vectors (B, width)."""
        if self.is_initializing():  # whatever x is, the variables are those of both towers
            image, tokens = jnp.zeros((1, *self.image_shape)), jnp.zeros((1, 1), jnp.int32)
            self.image_projection(self.image(image, train))
            self.text_projection(self.text(tokens, train))
        tower, project = self.image, self.image_projection
        if x.ndim == 2:
            tower, project = self.text, self.text_projection
        masked = "mask" in inspect.signature(tower.__call__).parameters
        return project(tower(x, train, mask) if masked else tower(x, train))


class TextTower(nn.Module):
    """The text tower of CLIP: tokens (B, T) to the vector (B, width) of the end-of-text token.

    It is a causal transformer, which sees nothing of the padding after that token, so it needs no
    mask. The end is the first token `end`; by default it is the largest one of the text, as of the
    published vocabulary.
    """

    vocab_size: int
    config: TransformerConfig = TransformerConfig()
    end: int | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """x (B, T) to (B, width)."""
        tokens = TokenEmbedding(self.vocab_size, self.config, name="tokens")
        stack = TransformerStack(self.config, causal=True, name="stack")
        vectors = stack(tokens(x, train), train=train)
        ends = (x if self.end is None else x == self.end).argmax(1)
        return jnp.take_along_axis(vectors, ends[:, None, None], 1)[:, 0]
