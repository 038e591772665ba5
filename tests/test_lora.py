"""LoRA and IA3: what is trained, and that adapters and merged weights give the same outputs.

Seen to fail: with B of ones, a scale of alpha, one norm for all columns in DoRA, biases that IA3
leaves, and its factors of inputs on the columns; of the kernels of Flax's attention, with heads
among the inputs of query, and head_dim alone as the inputs of out.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict

import jdl
from jdl.models.cnn import CNN
from jdl.models.gpt import GPT
from jdl.models.transformer import TransformerConfig
from jdl.objectives.lora import merge_lora
from jdl.patterns import input_axes

X = jax.random.normal(jax.random.key(9), (6, 8, 8, 1))
IMAGES = {"x": X, "y": jnp.arange(6) % 3}
TEXT = {"x": jax.random.randint(jax.random.key(8), (4, 6), 0, 11)}
CNN_3 = jdl.objectives.classify(CNN(3, blocks=((4, 1),), dense=(5,), batch_norm=True))
GPT_11 = jdl.objectives.next_token(GPT(11, TransformerConfig(8, 1, 2, max_length=8, rotary=False)))
MERGE = {"lora": jdl.merge_lora, "ia3": jdl.merge_ia3}
LORA = partial(jdl.lora, rank=2, alpha=6.0)
WAYS = {
    "convolution and dense": ("lora", CNN_3, LORA(CNN_3, "Conv|Dense_0", train="Dense_1")),
    "embedding and attention": ("lora", GPT_11, LORA(GPT_11, "table|query|value")),
    "rank-stabilized": ("lora", CNN_3, LORA(CNN_3, "Dense_0", rank_stabilized=True)),
    "DoRA": ("lora", CNN_3, LORA(CNN_3, "Conv|Dense_0", dora=True)),
    "IA3": ("ia3", GPT_11, jdl.ia3(GPT_11, "key|value", "feed_forward/out", train="norm/scale")),
    "IA3 of a convolution": ("ia3", CNN_3, jdl.ia3(CNN_3, "Conv", "Conv|Dense_0")),
}


def paths(tree):
    return flatten_dict(tree, sep="/")


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_only_adapters_are_trained_and_merged_weights_give_the_same(way):
    name, objective, adapted = WAYS[way]
    merge, batch = MERGE[name], TEXT if objective is GPT_11 else IMAGES
    learner = jdl.descent(adapted, optax.adam(3e-2))
    state = jax.jit(learner.init)(jax.random.key(0), batch)
    variables = learner.eval_variables(state)
    plain, base = paths(merge(variables)["params"]), paths(variables[name]["base"])
    assert plain.keys() == paths(objective.init(jax.random.key(0), batch)["params"]).keys()
    exact = 1e-6 if way == "DoRA" else 0  # its norms are divided by themselves
    for path, weight in base.items():
        np.testing.assert_allclose(plain[path], weight, rtol=exact)

    step = jax.jit(learner.step)
    for _ in range(3):
        state, _ = step(state, batch)
    after = learner.eval_variables(state)
    jax.tree.map(np.testing.assert_array_equal, variables[name], after[name])
    full = {path for path in paths(state.params) if f"/{name}_" not in path}
    assert all("Dense_1" in path or path.endswith("norm/scale") for path in full)
    merged = merge(after)
    changed = {path for path, x in paths(merged["params"]).items() if (x != plain[path]).any()}
    assert changed == {path.partition(f"/{name}_")[0] for path in paths(state.params)}
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


def test_a_bias_that_is_trained_in_full_is_multiplied_too():
    variables = jdl.ia3(CNN_3, "Dense_0", train="Dense_0/bias").init(jax.random.key(0), IMAGES)
    variables["params"] = jax.tree.map(lambda x: jnp.full_like(x, 2), variables["params"])
    merged = jdl.merge_ia3(variables)["params"]["head"]["Dense_0"]
    assert (merged["bias"] == 4).all()


def test_adapters_without_their_weights_are_not_merged():
    quantized = jdl.quantize(jdl.lora(CNN_3, "Dense_0"), "^lora/base/.*kernel")
    with pytest.raises(jdl.Error, match=r"head/Dense_0/kernel.*dequantize_variables"):
        merge_lora(quantized.init(jax.random.key(0), IMAGES))


def test_factors_of_activations_are_those_of_weights_and_biases():
    """IA3's formula, l * (W x + b) and W (l * x)."""
    objective = jdl.ia3(CNN_3, "Dense_0", "Dense_1")
    variables = objective.init(jax.random.key(0), IMAGES)
    draw = np.random.default_rng(0)
    weights = {"base": variables["ia3"]["base"], "params": variables["params"]}
    weights = jax.tree.map(lambda x: jnp.asarray(draw.normal(size=x.shape), x.dtype), weights)
    variables = {**variables, "params": weights["params"], "ia3": {"base": weights["base"]}}
    first, second = (weights["base"]["head"][f"Dense_{n}"] for n in (0, 1))
    outputs = weights["params"]["head"]["Dense_0"]["kernel"]["ia3_outputs"]
    inputs = weights["params"]["head"]["Dense_1"]["kernel"]["ia3_inputs"]
    x = draw.normal(size=(2, first["kernel"].shape[0])).astype(np.float32)
    merged = jdl.merge_ia3(variables)["params"]["head"]
    hidden = x @ merged["Dense_0"]["kernel"] + merged["Dense_0"]["bias"][None]
    expected = (x @ first["kernel"] + first["bias"][None]) * outputs[None]
    np.testing.assert_allclose(hidden, expected, rtol=1e-4, atol=1e-4)
    out = hidden @ merged["Dense_1"]["kernel"] + merged["Dense_1"]["bias"][None]
    expected = (hidden * inputs[None]) @ second["kernel"] + second["bias"][None]
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": "none"}, "none of the weight matrices"),
        ({"targets": "bias"}, "none of the weight matrices"),
        ({"targets": "Dense_1", "train": "Dense_1"}, "none of the weight matrices"),
        ({"targets": "Conv", "train": "none"}, "none of the parameters"),
        ({"targets": 2}, "must be a string, not 2"),
        ({"targets": "("}, "'\\(' is no regular expression"),
        ({"targets": "Conv", "rank": 0}, "at least 1, not 0"),
    ],
)
def test_patterns_that_match_nothing_are_refused(options, message):
    with pytest.raises(jdl.Error, match=message):
        jdl.lora(CNN_3, **options).init(jax.random.key(0), IMAGES)


@pytest.mark.slow
def test_adapters_of_adapters_are_refused():
    with pytest.raises(jdl.Error, match="weight matrices that are not"):
        jdl.ia3(CNN_3, "Conv", "bias").init(jax.random.key(0), IMAGES)
    with pytest.raises(jdl.Error, match="adapters already"):
        jdl.lora(jdl.lora(CNN_3, "Conv"), "lora_a").init(jax.random.key(0), IMAGES)


class LinenAttention(nn.Module):
    """Flax's own attention of 2 heads of 3 between layers."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.MultiHeadDotProductAttention(2, qkv_features=6)(x).mean(1))


class NNXAttention(nnx.Module):
    """The same, of NNX."""

    def __init__(self, rngs):
        self.attention = nnx.MultiHeadAttention(2, 4, 6, decode=False, rngs=rngs)

    def __call__(self, x):
        return self.attention(x).mean(1)


FLAX = {
    "MultiHeadDotProductAttention_0": jdl.objectives.classify(LinenAttention()),
    "attention": jdl.objectives.classify(jdl.nnx(NNXAttention)),
}
SEQUENCES = {"x": jax.random.normal(jax.random.key(7), (2, 5, 4)), "y": jnp.arange(2)}


def drawn(adapted, name):
    """Variables with random adapters, and the weights below these by path."""
    variables = adapted.init(jax.random.key(0), SEQUENCES)
    draw = np.random.default_rng(0)
    variables["params"] = jax.tree.map(
        lambda x: jnp.asarray(draw.normal(size=x.shape), x.dtype), variables["params"]
    )
    return variables, paths(variables[name]["base"]), paths(variables["params"])


@pytest.mark.parametrize("name", FLAX)
@pytest.mark.parametrize("dora", [False, True])
def test_the_heads_of_flax_attention_are_outputs_of_query_and_inputs_of_out(name, dora):
    """A is (inputs, rank) and B (rank, outputs), where `out` is trained in full too."""
    adapted = jdl.lora(FLAX[name], f"{name}/.*/kernel", rank=2, alpha=6.0, dora=dora)
    variables, base, params = drawn(adapted, "lora")
    merged = paths(merge_lora(variables)["params"])
    for part, inputs, outputs in (("query", 4, 6), ("key", 4, 6), ("value", 4, 6), ("out", 6, 4)):
        path = f"{name}/{part}/kernel"
        a, b = params[f"{path}/lora_a"], params[f"{path}/lora_b"]
        assert (a.shape, b.shape) == ((inputs, 2), (2, outputs))
        expected = np.asarray(base[path]).reshape(inputs, outputs) + 3.0 * np.asarray(
            a
        ) @ np.asarray(b)
        if dora:
            expected *= np.asarray(params[f"{path}/lora_magnitude"]) / np.sqrt((expected**2).sum(0))
        np.testing.assert_allclose(
            merged[path], expected.reshape(base[path].shape), rtol=1e-4, atol=1e-5
        )
    adapted = jdl.lora(FLAX[name], "query", rank=2, train=f"{name}/out")
    assert drawn(adapted, "lora")[2][f"{name}/query/kernel/lora_b"].shape == (2, 6)


@pytest.mark.parametrize("name", FLAX)
def test_factors_of_flax_attention_are_of_each_head(name):
    objective = jdl.ia3(FLAX[name], "query|value", "query|attention.*out|Attention_0/out")
    variables, base, params = drawn(objective, "ia3")
    merged = paths(jdl.merge_ia3(variables)["params"])
    factors = {path: np.asarray(factor) for path, factor in params.items() if "/ia3" in path}
    query, out = (f"{name}/{part}/kernel" for part in ("query", "out"))
    outputs, inputs = factors[f"{query}/ia3_outputs"], factors[f"{query}/ia3_inputs"]
    assert (outputs.shape, inputs.shape) == ((2, 3), (4,))
    expected = base[query] * outputs[None] * inputs[:, None, None]
    np.testing.assert_allclose(merged[query], expected, rtol=1e-6)
    np.testing.assert_array_equal(
        merged[f"{name}/query/bias"], base[f"{name}/query/bias"] * outputs
    )
    heads = factors[f"{out}/ia3_inputs"]
    np.testing.assert_array_equal(merged[out], base[out] * heads[..., None])


def test_a_convolution_named_query_has_no_heads():
    """A 1-D convolution (window, inputs, outputs) beside one named out, which is no attention."""
    shapes = {"query/kernel": (1, 4, 6), "out/kernel": (1, 6, 4), "a/query/kernel": (3, 8, 6)}
    params = {path: np.zeros(shape) for path, shape in shapes.items()}
    assert [input_axes(path, params) for path in params] == [(1, 2)] * 3
