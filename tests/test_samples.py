"""Images from generative models: samples, reconstructions, interpolations, and their files.

Seen to fail: interpolations that begin at the second row; a seed, label or scale that is ignored.
"""

from dataclasses import dataclass
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from PIL import Image

import jdl
from jdl.figures import samples
from jdl.figures.confusion import draw_confusion
from jdl.inspect.restore import TrainedRun
from jdl.inspect.sample import write_images
from jdl.models.autoencoder import VAE, Autoencoder

TRAIN, TEST = jdl.data.digits()


@dataclass(frozen=True)
class Config(jdl.Config):
    name: str = "small"
    steps: int = 1


class Noise(jdl.Objective):
    """A generative model without an encoder, which returns its latents."""

    def decode(self, variables, z, batch, key):
        return z

    def sample_latent(self, key, batch):
        return jax.random.normal(key, batch["x"].shape)


def run(objective):
    learner = jdl.descent(objective, optax.adam(1e-3))
    return jdl.Run(Config(), learner, TRAIN.shuffled(50, 0), test=TEST.batches(50))


@pytest.fixture(scope="module")
def vae():
    made = run(jdl.objectives.elbo(VAE((8, 8, 1), 3, hidden=(16,))))
    return TrainedRun(made, jax.jit(made.learner.init)(jax.random.key(0), made.train[0]))


def read(path):
    with np.load(path) as file:
        return file["x"]


def test_samples_are_repeated_by_their_seed(vae, tmp_path):
    first = read(write_images(vae, 70, tmp_path / "a" / "x.npz"))  # two batches
    assert first.shape == (70, 8, 8, 1)
    np.testing.assert_array_equal(first, read(write_images(vae, 70, tmp_path / "x.npz")))
    assert (first != read(write_images(vae, 70, tmp_path / "y.npz", seed=1))).any()
    with Image.open(write_images(vae, 9, tmp_path / "x.png")) as image:
        assert image.size == (800, 200)  # a row of 8 and a row of 1, enlarged


def test_samples_of_a_class_and_by_a_guidance_scale(tmp_path):
    class Denoiser(nn.Module):
        @nn.compact
        def __call__(self, x, t, y):
            return x * nn.Embed(11, 1)(y)[:, :, None, None]

    made = run(jdl.objectives.diffusion(Denoiser(), classes=10, sampling_steps=2))
    variables = jax.jit(made.learner.init)(jax.random.key(0), made.train[0])
    trained = TrainedRun(made, variables)

    def columns(**flags):
        with np.load(write_images(trained, 70, tmp_path / "x.npz", **flags)) as file:
            return file["x"], file["y"]

    x, y = columns()
    np.testing.assert_array_equal(y, np.arange(70) % 10)
    threes, labels = columns(label=3)
    np.testing.assert_array_equal(labels, 3)
    np.testing.assert_array_equal([(a == b).all() for a, b in zip(x, threes, strict=True)], y == 3)
    np.testing.assert_array_equal(columns(guidance_scale=1)[0], x)
    assert (columns(guidance_scale=2)[0] != x).any()
    with pytest.raises(jdl.Error, match="0 to 9 are"):
        columns(label=10)


def test_reconstructions_follow_their_rows_and_interpolations_begin_and_end_there(vae):
    rows = samples.reconstruct(vae.run, vae.variables, 4)
    np.testing.assert_array_equal(rows[::2], vae.run.test[0]["x"][:4])
    between = samples.interpolate(vae.run, vae.variables, steps=5, pairs=2)
    assert between.shape == (10, 8, 8, 1)
    np.testing.assert_allclose(between[[0, 4, 5, 9]], rows[1::2], atol=1e-5)


def test_figures_are_drawn_of_what_a_model_can_do(vae, tmp_path):
    names = [path.name for path in samples.draw_figures(vae.run, vae.variables, tmp_path / "a")]
    assert names == ["interpolations.png", "reconstructions.png"]
    (path,) = samples.draw_figures(run(Noise()), {}, tmp_path / "b")
    assert path.read_bytes().startswith(b"\x89PNG")
    draw_confusion(np.eye(3, dtype=int), ("a", "b", "c"), tmp_path / "c" / "confusion.png")
    assert (tmp_path / "c" / "confusion.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("at least 1 sample", lambda vae: write_images(vae, 0, "x.png")),
        ("must name a .png or .npz", lambda vae: write_images(vae, 1, Path("x.jpg"))),
        ("no encoder", lambda vae: samples.reconstruct(run(Noise()), {}, 4)),
        ("no prior", lambda vae: samples.generate(run(AUTOENCODER), {}, 4)),
        ("not class-conditional", lambda vae: write_images(vae, 1, Path("x.npz"), label=3)),
        ("no guidance", lambda vae: write_images(vae, 1, Path("x.npz"), guidance_scale=3)),
        ("takes rows", lambda vae: write_images(vae, 1, Path("x.npz"), True, label=3)),
        ("not images", lambda vae: samples.write_png("x.png", np.zeros((2, 8, 8, 4)))),
    ],
)
def test_refuses(vae, message, call):
    with pytest.raises(jdl.Error, match=message):
        call(vae)


AUTOENCODER = jdl.objectives.autoencode(Autoencoder((8, 8, 1), 3))
