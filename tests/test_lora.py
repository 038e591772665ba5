"""LoRA: what is trained, and that adapters and merged weights give the same outputs.

Seen to fail: with B of ones, a scale of alpha, and one norm for all columns in DoRA.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

import jdl
from jdl.models.cnn import CNN
from jdl.models.gpt import GPT
from jdl.models.transformer import TransformerConfig
from jdl.objectives.lora import merge_lora

X = jax.random.normal(jax.random.key(9), (6, 8, 8, 1))
IMAGES = {"x": X, "y": jnp.arange(6) % 3}
TEXT = {"x": jax.random.randint(jax.random.key(8), (4, 6), 0, 11)}
CNN_3 = jdl.objectives.classify(CNN(3, blocks=((4, 1),), dense=(5,), batch_norm=True))
GPT_11 = jdl.objectives.next_token(GPT(11, TransformerConfig(8, 1, 2, max_length=8, rotary=False)))
WAYS = {
    "convolution and dense": (CNN_3, IMAGES, {"targets": "Conv|Dense_0", "train": "Dense_1"}),
    "embedding and attention": (GPT_11, TEXT, {"targets": "table|query|value"}),
    "rank-stabilized": (CNN_3, IMAGES, {"targets": "Dense_0", "rank_stabilized": True}),
    "DoRA": (CNN_3, IMAGES, {"targets": "Conv|Dense_0", "dora": True}),
}


def paths(tree):
    return flatten_dict(tree, sep="/")


@pytest.mark.parametrize("way", WAYS)
def test_only_adapters_are_trained_and_merged_weights_give_the_same(way):
    objective, batch, options = WAYS[way]
    adapted = jdl.lora(objective, rank=2, alpha=6.0, **options)
    learner = jdl.descent(adapted, optax.adam(3e-2))
    state = jax.jit(learner.init)(jax.random.key(0), batch)
    variables = learner.eval_variables(state)
    plain, base = paths(merge_lora(variables)["params"]), paths(variables["lora"]["base"])
    assert plain.keys() == paths(objective.init(jax.random.key(0), batch)["params"]).keys()
    exact = 1e-6 if "dora" in options else 0  # its norms are divided by themselves
    for path, weight in base.items():
        np.testing.assert_allclose(plain[path], weight, rtol=exact)

    step = jax.jit(learner.step)
    for _ in range(3):
        state, _ = step(state, batch)
    after = learner.eval_variables(state)
    jax.tree.map(np.testing.assert_array_equal, variables["lora"], after["lora"])
    names = {path.rpartition("/")[2] for path in paths(state.params)}
    assert names <= {"lora_a", "lora_b", "lora_magnitude", "kernel", "bias"}
    assert all("Dense_1" in p for p in paths(state.params) if p.endswith(("kernel", "bias")))
    merged = merge_lora(after)
    changed = {path for path, x in paths(merged["params"]).items() if (x != plain[path]).any()}
    assert changed == {
        path.removesuffix("/lora_a") for path in paths(state.params) if path.endswith("lora_a")
    } | {path for path in paths(state.params) if "lora" not in path}
    loss, of_merged = (
        o.loss(v, batch, jax.random.key(1), False).loss.value()
        for o, v in ((adapted, after), (objective, merged))
    )
    np.testing.assert_allclose(loss, of_merged, rtol=1e-6)


def test_a_table_learns_by_its_rows_and_an_output_of_zeros_stays_finite():
    """Small A of a whole vocabulary would hardly move; DoRA divides by the norm of each output."""
    variables = jdl.lora(GPT_11, "table", rank=2).init(jax.random.key(0), TEXT)
    table = variables["params"]["tokens"]["table"]
    assert not table["lora_a"].any()
    assert table["lora_b"].std() > 0.5
    variables = jdl.lora(CNN_3, "Dense_0", rank=2, dora=True).init(jax.random.key(0), IMAGES)
    base = variables["lora"]["base"]["head"]["Dense_0"]
    base["kernel"] = base["kernel"].at[:, 0].set(0)
    merged = merge_lora(variables)["params"]["head"]["Dense_0"]["kernel"]
    assert np.isfinite(merged).all()


@pytest.mark.parametrize("dora", [False, True])
def test_merged_is_the_formula(dora):
    adapted = jdl.lora(CNN_3, "Conv", rank=2, alpha=6.0, dora=dora)
    variables = adapted.init(jax.random.key(0), IMAGES)
    draw = np.random.default_rng(0)
    variables["params"] = jax.tree.map(
        lambda x: jnp.asarray(draw.normal(size=x.shape), x.dtype), variables["params"]
    )
    kernel = np.asarray(variables["lora"]["base"]["Conv_0"]["kernel"], np.float64)
    given = {name: np.asarray(x) for name, x in variables["params"]["Conv_0"]["kernel"].items()}
    expected = kernel.reshape(-1, 4) + 6.0 / 2 * given["lora_a"] @ given["lora_b"]
    if dora:
        expected *= given["lora_magnitude"] / np.sqrt((expected**2).sum(0))
    merged = merge_lora(variables)["params"]["Conv_0"]["kernel"]
    np.testing.assert_allclose(merged, expected.reshape(kernel.shape), rtol=1e-5)
    stabilized = jdl.lora(CNN_3, "Conv", rank=4, alpha=6.0, rank_stabilized=True)
    assert stabilized.init(jax.random.key(0), IMAGES)["lora"]["scale"] == 3.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": "none"}, "none of the weight matrices"),
        ({"targets": "bias"}, "none of the weight matrices"),
        ({"targets": "Dense_1", "train": "Dense_1"}, "none of the weight matrices"),
        ({"targets": "Conv", "train": "none"}, "none of the parameters"),
        ({"targets": "("}, "'\\(' is no regular expression"),
        ({"targets": "Conv", "rank": 0}, "at least 1, not 0"),
    ],
)
def test_patterns_that_match_nothing_are_refused(options, message):
    with pytest.raises(jdl.Error, match=message):
        jdl.lora(CNN_3, **options).init(jax.random.key(0), IMAGES)


def test_adapters_of_adapters_are_refused():
    with pytest.raises(jdl.Error, match="adapters already"):
        jdl.lora(jdl.lora(CNN_3, "Conv"), "lora_a").init(jax.random.key(0), IMAGES)
