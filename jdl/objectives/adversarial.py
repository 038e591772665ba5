"""Generative adversarial networks: a game of two players as one objective, whose gradients are each player's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jdl.keys import stream
from jdl.layers import sample_rows
from jdl.objectives import model_call as call
from jdl.types import (
    Array,
    Batch,
    Bounds,
    Error,
    Key,
    Maker,
    Mean,
    Metrics,
    Objective,
    LossOutput,
    Variables,
)

PLAYERS = ("critic", "generator")


@dataclass(frozen=True)
class Game:
    """What each player loses, (B,), by the critic's scores (B,) of `real` and of `fake` rows.

    With a `penalty`, the critic loses besides so many times (1 - the norm of its gradient)^2 at random points between
    real and fake rows (Gulrajani et al., 2017): a critic without BatchNorm, whose rows are then its own affair.
    """

    of_critic: Callable[[Array, Array], Array]
    of_generator: Callable[[Array], Array]
    penalty: float = 0.0


non_saturating = Game(
    lambda real, fake: jax.nn.softplus(-real) + jax.nn.softplus(fake),
    lambda fake: jax.nn.softplus(-fake),
)
"""The critic tells real from fake; the generator makes fakes look real (Goodfellow et al., 2014)."""

hinge_gan = Game(
    lambda real, fake: jax.nn.relu(1 - real) + jax.nn.relu(1 + fake), lambda fake: -fake
)
"""Scores matter up to a margin (Lim and Ye, 2017; Tran et al., 2017)."""

wasserstein = Game(lambda real, fake: fake - real, lambda fake: -fake, penalty=10.0)
"""Scores estimate a distance of real and fake (Arjovsky et al., 2017), by a critic of slope 1."""


def adversarial(
    generator: Any, critic: Any, latent: int = 64, game: Game = non_saturating
) -> Objective:
    """Rows like x (B, ...), that the generator makes of normal numbers (B, latent) and the critic scores, (B, 1).

    The parameters of the two lie under "generator" and "critic", for `jdl.optim.per_module`; each player's loss sees the
    other through `stop_gradient`, so that their sum has the gradient of each by its own. Metrics: both losses, and the
    mean score of real and fake rows.
    """
    if latent < 1:
        raise Error(
            f"latent is how many numbers a row is made from, at least 1, and {latent} is not."
        )

    def noise(key: Key, batch: Batch) -> Array:
        return sample_rows(jax.random.normal, key, (len(call.column(batch)), latent))

    def init(key: Key, batch: Batch) -> Variables:
        parts = {
            "generator": call.init(
                generator, stream(key, "generator"), jnp.zeros((len(batch["x"]), latent))
            ),
            "critic": call.init(critic, stream(key, "critic"), call.column(batch)),
        }
        return {"params": {}} | _together(parts)

    def loss(variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        x, mask, still = call.column(batch), batch.get("mask"), jax.lax.stop_gradient
        of = {name: _of(variables, name) for name in PLAYERS}

        def made() -> tuple[Array, Variables]:
            z = noise(stream(key, "latent"), batch)
            return call.apply(
                generator, of["generator"], (z,), batch, stream(key, "generator"), train
            )

        def scored(variables: Variables, x: Array, name: str) -> tuple[Array, Variables]:
            scores, model_state = call.apply(
                critic, variables, (x,), batch, stream(key, name), train
            )
            return scores[:, 0], model_state

        fake, generator_carry = made()
        real, model_state = scored(of["critic"], x, "real")
        faked, model_state = scored({**of["critic"], **model_state}, still(fake), "fake")
        of_critic = game.of_critic(real, faked)
        if game.penalty:
            share = sample_rows(
                jax.random.uniform, stream(key, "between"), (len(x),) + (1,) * (x.ndim - 1)
            )
            slope = jax.grad(lambda x: scored(of["critic"], x, "slope")[0].sum())(
                share * x + (1 - share) * still(fake)
            )
            norm = jnp.sqrt(jnp.square(slope).reshape(len(x), -1).sum(-1) + 1e-12)
            of_critic = of_critic + game.penalty * jnp.square(norm - 1)
        of_generator = game.of_generator(scored(still(of["critic"]), fake, "fake")[0])
        found = {"critic": of_critic, "generator": of_generator, "real": real, "fake": faked}
        metrics: Metrics = {name: Mean.of(values, mask) for name, values in found.items()}
        carries = _together({"generator": generator_carry, "critic": model_state})
        return LossOutput(Mean.of(of_critic + of_generator, mask), metrics, carries)

    def make(variables: Variables, z: Array, batch: Batch, key: Key) -> Array:
        return call.apply(
            generator, _of(variables, "generator"), (z,), batch, jax.random.key(0), False
        )[0]

    def check(batch: Batch, bounds: Bounds) -> None:
        x = call.column(batch).shape
        made = call.output_shape(
            generator, {"x": jax.eval_shape(lambda: jnp.zeros((x[0], latent)))}
        )
        scores = call.output_shape(critic, batch)
        if made != x or scores != (x[0], 1):
            raise Error(
                f"The generator makes {made} and the critic scores {scores}; of rows x of {x} they are to make {x} and "
                f"score {(x[0], 1)}."
            )

    return Objective(init, loss, check=check, maker=Maker(make, noise=noise))


def _of(variables: Variables, name: str) -> Variables:
    """One player's variables."""
    return {
        collection: players[name] for collection, players in variables.items() if name in players
    }


def _together(parts: dict[str, Variables]) -> Variables:
    """The players' variables by collection, then by player."""
    collections = sorted({collection for variables in parts.values() for collection in variables})
    return {c: {name: v[c] for name, v in parts.items() if c in v} for c in collections}
