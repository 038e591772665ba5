"""Samples over HTTP: those of `jdl sample` with the same seed, as JSON, an array or a picture.

Seen to fail: one batch's latents for all, classes that begin with another, a class beyond the last,
a picture in another order, the classes of the test data alone, a picture that was refused (q=0).
"""

import io

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from serving import serving

import jdl
from jdl.figures.samples import class_batch, generate, latent_key, num_classes, png
from jdl.models.autoencoder import VAE
from jdl.objectives import diffusion, elbo
from jdl.serve.limits import RequestError
from jdl.serve.models import ServedModel, ServedProgram
from jdl.serve.sample_requests import JSON, NPY, PNG, accepted, latents, refusal

LIMITS = {"max_batch": 64, "max_rows": 70}


class Denoiser(nn.Module):
    """The smallest model of diffusion: one layer, of the pixels, the time and the class."""

    @nn.compact
    def __call__(self, x, t, y=None):
        """Shape (B, H, W, 1) in and out."""
        flat = x.reshape(-1, 64)
        about = [t[:, None]] if y is None else [t[:, None], nn.Embed(6, 4)(y)]
        return nn.Dense(64)(jnp.concatenate([flat, *about], 1)).reshape(x.shape)


MAKERS = {
    "garments": lambda: diffusion(Denoiser(), classes=5, sampling_steps=2),
    "codes": lambda: elbo(VAE((8, 8, 1), 3, (4,), (6,))),
}


def made(root, name):
    """The folder of an exported generative model of 8 x 8 pixels, and its run restored.

    Its test data lack the last classes.
    """
    draw = np.random.default_rng(0)
    columns = {"x": draw.random((8, 8, 8, 1), np.float32)}
    if name == "garments":
        columns["y"] = np.arange(8) % 5
    data = jdl.data.arrays(**columns)
    learner = jdl.descent(MAKERS[name](), optax.sgd(0.1))
    test = jdl.data.arrays(**{name: column[:3] for name, column in columns.items()}).batches(3)
    run = jdl.Run(jdl.Config(name, steps=1), learner, data.shuffled(8, 0), test=test)
    (root / "to").mkdir(exist_ok=True)
    folder = jdl.fit(run, jdl.Options(root=root, quiet=True)).folder
    return jdl.export.export(folder, root / "to" / name, run=run), jdl.restore(folder, run)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The exported models with their runs, by name."""
    root = tmp_path_factory.mktemp("samples")
    return {name: made(root, name) for name in MAKERS}


@pytest.fixture(scope="module")
def client(models):
    """A client of a server of all of them."""
    with serving([folder for folder, _ in models.values()], **LIMITS) as client:
        yield client


def ask(client, name, document, accept="*/*"):
    path = f"/v1/models/{name}/sample"
    return client.post(path, json=document, headers={"Accept": accept})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["garments", "codes"])
def test_samples_are_those_of_the_run_with_the_same_seed(client, models, name):
    """In whole batches to the bit on the platform of the export; else as the export differs."""
    trained = models[name][1]
    expected = generate(trained.run, trained.variables, 70, seed=7)
    found = np.load(io.BytesIO(ask(client, name, {"n": 64, "seed": 7}, NPY).content))
    assert found.tobytes() == expected[:64].tobytes()
    more = np.load(io.BytesIO(ask(client, name, {"n": 70, "seed": 7}, NPY).content))
    np.testing.assert_allclose(more, expected, atol=1e-6)
    few = ask(client, name, {"n": 3, "seed": 7}).json()
    np.testing.assert_allclose(few["samples"], expected[:3], atol=1e-6)
    assert few["seed"] == 7
    other = ask(client, name, {"n": 3, "seed": 8}).json()
    assert np.abs(np.subtract(other["samples"], few["samples"])).max() > 1e-3


def test_latents_are_the_run_s_to_the_bit(models):
    for _, trained in models.values():
        objective, data = trained.run.learner.objective, trained.run.train
        expected = np.concatenate(
            [objective.sample_latent(latent_key(3, n), class_batch(data, 64 * n)) for n in (0, 1)]
        )
        found = latents(expected.shape[1:], 70, 3)
        assert found.tobytes() == expected[:70].tobytes()


def test_a_picture_is_the_grid_of_jdl_sample(client, models):
    trained = models["codes"][1]
    response = ask(client, "codes", {"n": 64, "seed": 0}, PNG)
    assert (response.headers["content-type"], response.headers["seed"]) == (PNG, "0")
    assert response.content == png(generate(trained.run, trained.variables, 64, seed=0))
    Image.open(io.BytesIO(response.content)).verify()


def test_a_class_is_that_of_the_request(client):
    cycled = ask(client, "garments", {"n": 7, "seed": 1}).json()
    assert cycled["y"] == [0, 1, 2, 3, 4, 0, 1]
    fours = ask(client, "garments", {"n": 7, "seed": 1, "y": 4}).json()
    np.testing.assert_allclose(fours["samples"][4], cycled["samples"][4], atol=1e-6)
    assert np.abs(np.subtract(fours["samples"][0], cycled["samples"][0])).max() > 1e-4
    listed = ask(client, "garments", {"seed": 1, "y": [4, 1, 4]}).json()
    assert listed["y"] == [4, 1, 4]
    np.testing.assert_allclose(
        listed["samples"][:2], [fours["samples"][0], cycled["samples"][1]], atol=1e-6
    )


def test_classes_are_whole_numbers_from_0():
    """A label of -1, as of what has none, is no class, and neither is a number to regress on."""
    columns = (([-1, 3], 4), ([0.0, 0.9], None), ([[0, 1], [1, 0]], None))
    loaders = [jdl.data.arrays(x=np.ones((2, 3)), y=np.asarray(y)).batches(2) for y, _ in columns]
    assert [num_classes(data) for data in loaders] == [count for _, count in columns]


def test_latents_of_the_client_and_a_seed_that_is_drawn(client):
    z = latents((3,), 2, 5)
    own = ask(client, "codes", {"z": z.tolist(), "n": None, "seed": None}).json()
    assert "seed" not in own
    assert own["samples"] == ask(client, "codes", {"n": 2, "seed": 5}).json()["samples"]
    drawn = ask(client, "codes", {}).json()
    assert len(drawn["samples"]) == 16
    again = ask(client, "codes", {"seed": drawn["seed"]}).json()
    assert again["samples"] == drawn["samples"]


WRONG = (
    ("codes", {"n": 0}, "n must be a whole number from 1 to 70"),
    ("codes", {"n": 71}, "n must be"),
    ("codes", {"n": 2.0}, "n must be"),
    ("codes", {"n": True}, "n must be"),
    ("codes", {"seed": -1}, "seed must be a whole number from 0 to 2,147,483,647"),
    ("codes", {"seed": "7"}, "seed must be"),
    ("codes", {"y": 1}, "is unconditional"),
    ("codes", {"z": [[0, 0]]}, "z must be of shape (b, 3)"),
    ("codes", {"z": []}, "z must be of shape"),
    ("codes", {"z": 1}, "z must be a list"),
    ("codes", {"z": [[0, 0, 0]] * 71}, "at most 70 rows"),
    ("codes", {"z": [[0, 0, 0]], "n": 1}, "Give z, or n and seed, not both."),
    ("codes", {"count": 1}, "There is no 'count'; there are n, seed, y, z"),
    ("codes", [], "The body must be an object"),
    ("garments", {"y": 5}, "y must be of whole numbers from 0 to 4"),
    ("garments", {"y": -1}, "y must be of whole numbers"),
    ("garments", {"y": True}, "y must be of whole numbers"),
    ("garments", {"y": [1, 2], "n": 3}, "one for each of 3 samples"),
    ("garments", {"y": []}, "one for each of 16 samples"),
)


@pytest.mark.parametrize(("name", "document", "message"), WRONG)
def test_wrong_requests_are_refused_with_a_message(client, name, document, message):
    found = ask(client, name, document)
    assert (found.status_code, message in found.json()["error"]) == (422, True), found.text


ACCEPT = (
    ("", JSON),
    ("*/*", JSON),
    ("image/png, application/json", PNG),
    ("application/json;q=0.5, Image/PNG", PNG),
    ("image/png;q=0, application/x-npy", NPY),
    ("application/json; q=0, */*;q=0.1", NPY),
    ("image/*", PNG),
    ("application/*", JSON),
    ("text/html, */*;q=0.8", JSON),
    ("image/*;q=0, application/*;q=0.0", None),
    ("image/png;q=much", None),
    ("text/html", None),
)


@pytest.mark.parametrize(("header", "kind"), ACCEPT)
def test_the_media_type_is_that_which_is_accepted(header, kind):
    if kind is not None:
        assert accepted(header) == kind
        return
    with pytest.raises(RequestError, match="or image/png: accept one of them"):
        accepted(header)


def test_what_is_no_sample_is_refused(client):
    found = ask(client, "codes", {}, "text/html")
    assert (found.status_code, "or image/png" in found.json()["error"]) == (406, True)
    found = client.post("/v1/models/garments/predict", json={"rows": [[0, 0, 0]]})
    assert (found.status_code, found.json()["error"]) == (
        422,
        "garments does not predict: it has the programs generate.",
    )
    paths = client.get("/openapi.json").json()["paths"]
    schema = paths["/v1/models/{name}/sample"]["post"]
    assert set(schema["responses"]["200"]["content"]) == {JSON, NPY, PNG}
    assert {"404", "406", "422"} < schema["responses"].keys()
    fields = schema["requestBody"]["content"][JSON]["schema"]["properties"]
    assert (fields["n"]["maximum"], fields["seed"]["maximum"]) == (70, 2**31 - 1)
    answer = schema["responses"]["200"]["content"][JSON]["schema"]
    shown = ask(client, "garments", {"n": 2}).json()
    assert shown.keys() == answer["properties"].keys()


def test_programs_that_are_not_sampled_say_why():
    """Of diffusion with `eta`, whose program has a seed, and of what is no generator."""

    def why(program, *inputs):
        about = {"inputs": {name: {} for name in inputs}}
        programs = {program: ServedProgram(program, about, {}, None)}
        return refusal(ServedModel(None, "0", {"name": "noisy"}, programs, None))

    assert why("generate", "y", "z") is None
    assert why("generate", "seed", "z").startswith("noisy draws noise at each step of sampling")
    assert why("generate", "age", "z").startswith("noisy takes an extra input age")
    assert why("predict", "x") == "noisy makes no samples: it has the programs predict."
