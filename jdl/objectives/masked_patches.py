"""Masked autoencoder: self-supervised learning of images whose patches are hidden."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jdl.keys import stream
from jdl.layers import pixel_unshuffle, sample_rows
from jdl.objectives import model_call
from jdl.types import Array, Batch, Bounds, Error, Key, LossOutput, Mean, Variables


def masked_patches(model: Any, patch_size: int, mask_ratio: float = 0.75) -> MaskedPatches:
    """Masked autoencoder (MAE; He et al., 2022), masked image modelling: learning without labels.

    Images x (B, H, W, C) are cut into N patches of `patch_size` x `patch_size` pixels, of which the
    share `mask_ratio`, drawn anew for each row, is hidden. The model, such as `MaskedAutoencoder`,
    gets x and the places of the visible patches (B, V), from 0 to N - 1, and gives the pixels of
    all patches (B, N, P). The loss is the mean squared error of the hidden ones, in evaluation too.
    Predictions: the features `code` (B, D) of the whole image, by the model's method `encode`.
    """
    if patch_size < 1 or not 0 < mask_ratio < 1:
        raise Error(
            "patch_size must be at least 1, and mask_ratio, a share, above 0 and below 1; got "
            f"{patch_size=}, {mask_ratio=}."
        )
    model_call.require_methods("masked_patches", model, "encode")
    return MaskedPatches(model, patch_size, mask_ratio)


@dataclass(frozen=True, eq=False)
class MaskedPatches(model_call.ModelObjective):
    """A masked autoencoder; see `masked_patches`."""

    patch_size: int
    mask_ratio: float

    def init(self, key: Key, batch: Batch) -> Variables:
        """The model's initial variables."""
        return model_call.init(self.model, key, batch, *self._inputs(batch))

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The mean squared error of the pixels of hidden patches."""
        patches = self._patches(batch)
        order = self._orders(batch, stream(key, "patches"))
        visible = order[:, : self._visible(order.shape[1])]
        inputs = (model_call.column(batch), visible)
        out, model_state = model_call.apply(self.model, variables, inputs, batch, key, train)
        hidden = jax.vmap(lambda places: jnp.ones(order.shape[1], bool).at[places].set(False))(
            visible
        )
        if "mask" in batch:
            hidden &= batch["mask"].astype(bool)[:, None]
        return LossOutput(Mean.of(jnp.square(out - patches), hidden), {}, model_state)

    def predict(self, variables: Variables, batch: Batch) -> Batch:
        """The features `code` (B, D) of the whole images."""
        inputs = (model_call.column(batch),)
        return {"code": model_call.evaluate(self.model, variables, batch, inputs, "encode")}

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` unless x are images, and the model gives the pixels of their patches."""
        x = model_call.column(spec)
        if len(x.shape) != 4:
            raise Error(f"masked_patches takes images x (B, H, W, C), but x is {x.shape}.")
        patches = jax.eval_shape(self._patches, spec).shape
        if not 0 < self._visible(patches[1]) < patches[1]:
            raise Error(
                f"Of {patches[1]} patches a mask_ratio of {self.mask_ratio} hides all or none: "
                "choose smaller patches, or another share."
            )
        out = model_call.output_shape(self.model, spec, self._inputs)
        if out != patches:
            raise Error(
                f"The model must give the pixels {patches} of all patches, but it gives {out}: "
                "give it the same patch_size as the objective."
            )

    def _patches(self, batch: Batch) -> Array:
        """The pixels of all patches, (B, N, P)."""
        x = model_call.column(batch)
        return pixel_unshuffle(x, self.patch_size).reshape(
            x.shape[0], -1, self.patch_size**2 * x.shape[3]
        )

    def _orders(self, batch: Batch, key: Key) -> Array:
        """A random order of the patches of each row, (B, N)."""
        shape = jax.eval_shape(self._patches, batch).shape[:2]
        return sample_rows(jax.random.uniform, key, shape).argsort(-1)

    def _visible(self, patches: int) -> int:
        """How many of so many patches are visible."""
        return round(patches * (1 - self.mask_ratio))

    def _inputs(self, batch: Batch) -> tuple[Array, Array]:
        """Inputs of the model in which the first patches are visible, for their shapes."""
        x = model_call.column(batch)
        patches = jax.eval_shape(self._patches, batch).shape[1]
        visible = jnp.arange(self._visible(patches), dtype=jnp.int32)
        return x, jnp.broadcast_to(visible[None], (x.shape[0], len(visible)))
