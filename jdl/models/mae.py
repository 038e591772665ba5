"""MAE: the masked autoencoder, a vision transformer that reads a part of an image's patches."""

from __future__ import annotations

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.layers import Dense, Dropout
from jdl.models.transformer import TransformerConfig, TransformerStack
from jdl.models.vit import embed_patches


class MaskedAutoencoder(nn.Module):
    """Masked autoencoder (MAE; He et al., 2022): an encoder of visible patches, a decoder of all.

    The images (B, H, W, C) are cut into N patches of `patch_size` x `patch_size` pixels. The
    encoder is a vision transformer that reads the visible ones alone; the small decoder reads its
    outputs and, for each other patch, the learned mask token, and gives the pixels of all patches.
    Position embeddings are learned, in both. The parameters under "encoder" are those of
    `jdl.models.vit.ViT` without its head.
    """

    patch_size: int = 4
    config: TransformerConfig = TransformerConfig()
    decoder_config: TransformerConfig = TransformerConfig(width=64, depth=1)

    def setup(self) -> None:
        """The encoder and the decoder."""
        # Rotary embeddings would count the visible patches alone.
        self.encoder = PatchEncoder(self.patch_size, replace(self.config, rotary=False))
        self.decoder = PatchDecoder(replace(self.decoder_config, rotary=False))

    def __call__(self, x: jax.Array, visible: jax.Array, train: bool = False) -> jax.Array:
        """x (B, H, W, C), and the places of visible patches (B, V), to all patches (B, N, P)."""
        patches = x.shape[1] * x.shape[2] // self.patch_size**2
        encoded = self.encoder(x, visible, train)
        return self.decoder(encoded, visible, patches, self.patch_size**2 * x.shape[3], train)

    def encode(self, x: jax.Array, train: bool = False) -> jax.Array:
        """x (B, H, W, C) to features (B, width): the mean over all patches."""
        return self.encoder(x, None, train).mean(1)


class PatchEncoder(nn.Module):
    """The encoder of a masked autoencoder: a vision transformer without a head."""

    patch_size: int
    config: TransformerConfig

    @nn.compact
    def __call__(self, x: jax.Array, visible: jax.Array | None, train: bool) -> jax.Array:
        """x (B, H, W, C) to (B, V, width), of the patches at `visible` (B, V), or of all."""
        x = embed_patches(self, x, self.patch_size, self.config.width)
        if visible is not None:
            x = jnp.take_along_axis(x, visible[..., None], 1)
        x = Dropout(self.config.dropout)(x, train)
        return TransformerStack(self.config, name="stack")(x, train=train)


class PatchDecoder(nn.Module):
    """The decoder of a masked autoencoder."""

    config: TransformerConfig

    @nn.compact
    def __call__(
        self, encoded: jax.Array, visible: jax.Array, patches: int, outputs: int, train: bool
    ) -> jax.Array:
        """(B, V, width) of the patches at `visible` (B, V) to (B, patches, outputs)."""
        width, normal = self.config.width, nn.initializers.normal(0.02)
        x = Dense(width, name="in")(encoded)
        token = self.param("mask_token", normal, (1, 1, width))
        every = jnp.broadcast_to(token, (x.shape[0], patches, width)).astype(x.dtype)
        every = jax.vmap(lambda row, places, given: row.at[places].set(given))(every, visible, x)
        every = every + self.param("positions", normal, (1, patches, width))
        every = TransformerStack(self.config, name="stack")(every, train=train)
        return Dense(outputs, name="out")(every)
