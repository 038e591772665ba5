"""Image captioning: a decoder that reads an image's features and writes a sentence about it."""

from __future__ import annotations

import flax.linen as nn
import jax

from jdl.layers import Dense
from jdl.models.encoder_decoder import EncoderDecoder, decoder_of
from jdl.models.transformer import TokenEmbedding, TransformerConfig


class Captioner(EncoderDecoder):
    """Image captioning with attention (Xu et al., 2015), by a transformer decoder.

    Images x (B, H, W, C) and tokens y (B, T) give the logits (B, T, vocab_size) of the tokens that
    follow; logits at t depend on y up to t alone. The decoder attends to the places of the last
    stage of the `backbone`, which gives features (B, h, w, c) of its stages as `ResNet(None, ...)`
    does. `jdl.objectives.seq2seq` trains it.
    """

    vocab_size: int
    backbone: nn.Module
    config: TransformerConfig = TransformerConfig()

    def setup(self) -> None:
        """The decoder is that of `T5`."""
        self.encoder = ImageEncoder(self.backbone, self.config.width)
        self.tokens = TokenEmbedding(self.vocab_size, self.config)
        self.decoder = decoder_of(self.config)

    def encode(self, x: jax.Array, train: bool = False, mask: jax.Array | None = None) -> jax.Array:
        """Images (B, H, W, C) to vectors (B, h * w, width), for rows whose mask (B,) is true."""
        return self.encoder(x, train, mask)


class ImageEncoder(nn.Module):
    """An image's places as a sequence: features of the backbone's last stage, and positions."""

    backbone: nn.Module
    width: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array | None) -> jax.Array:
        """x (B, H, W, C) to (B, h * w, width)."""
        x = self.backbone(x, train, mask)[-1]
        x = Dense(self.width, name="features")(x.reshape(x.shape[0], -1, x.shape[-1]))
        return x + self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:]))
