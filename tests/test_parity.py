"""The same outputs as PyTorch's for the same weights, to 1e-5.

tests/golden/torch.npz and minilm.npz are written by scripts/golden_torch.py and golden_minilm.py.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jdl
from jdl.data.fetch import fetch
from jdl.layers import ELMAN, GRU, LSTM
from jdl.models.rnn import RecurrentLayer
from jdl.models.transformer import MultiHeadAttention, TransformerConfig
from jdl.types import Error

GOLDEN = dict(np.load(Path(__file__).parent / "golden" / "torch.npz"))
CELLS = {"lstm": LSTM, "gru": GRU, "rnn": ELMAN}


def recurrent_params(name, layer, direction):
    """PyTorch has two biases; where one is enough, ours is their sum."""
    w_x, w_h, b_x, b_h = (
        jnp.asarray(GOLDEN[f"{name}.{part}_l{layer}{direction}"])
        for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    if CELLS[name].reset_after:
        return {"input": {"kernel": w_x.T, "bias": b_x}, "kernel": w_h.T, "bias": b_h}
    return {"input": {"kernel": w_x.T, "bias": b_x + b_h}, "kernel": w_h.T}


@pytest.mark.parametrize("name", CELLS)
def test_two_bidirectional_layers_over_padded_sequences(name):
    x, lengths = jnp.asarray(GOLDEN["x"]), GOLDEN["lengths"]
    mask = jnp.arange(x.shape[1])[None] < jnp.asarray(lengths)[:, None]
    for layer in range(2):
        outputs = []
        for direction, reverse in (("", False), ("_reverse", True)):
            variables = {"params": recurrent_params(name, layer, direction)}
            outputs.append(RecurrentLayer(8, CELLS[name], reverse).apply(variables, x, mask)[0])
        x = jnp.concatenate(outputs, -1)
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(
            x[row, :length], GOLDEN[f"{name}.outputs"][row, :length], atol=1e-5
        )


def test_multi_head_attention():
    x, lengths = jnp.asarray(GOLDEN["wide"]), GOLDEN["lengths"]
    config = TransformerConfig(width=8, heads=2, rotary=False)
    kernels = np.split(GOLDEN["attention.in_proj_weight"], 3)
    biases = np.split(GOLDEN["attention.in_proj_bias"], 3)
    params = {
        name: {"kernel": jnp.asarray(kernel.T), "bias": jnp.asarray(bias)}
        for name, kernel, bias in zip(("query", "key", "value"), kernels, biases, strict=True)
    }
    del params["key"]["bias"]  # random in PyTorch here, and without effect
    params["out"] = {
        "kernel": jnp.asarray(GOLDEN["attention.out_proj.weight"].T),
        "bias": jnp.asarray(GOLDEN["attention.out_proj.bias"]),
    }
    padded = jnp.arange(x.shape[1])[None] < jnp.asarray(lengths)[:, None]
    for name, causal, mask in (("causal", True, None), ("padded", False, padded)):
        attention = MultiHeadAttention(config, causal)
        out = jax.jit(attention.apply)({"params": params}, x, None, mask)
        np.testing.assert_allclose(out, GOLDEN[f"attention.{name}"], atol=1e-5)


@pytest.mark.slow
def test_the_encoder_of_minilm():
    """Its weights are downloaded where there is a network, and else the test is skipped."""
    pytest.importorskip("safetensors.numpy")
    try:
        folder = fetch("minilm")
    except Error as error:
        pytest.skip(f"the weights cannot be downloaded here: {error}")
    golden = np.load(Path(__file__).parent / "golden" / "minilm.npz")
    model = jdl.weights.from_pretrained(folder, pool=False)
    tokens, mask = jnp.asarray(golden["tokens"]), golden["mask"]
    variables = model.init(jax.random.key(0), tokens)
    states = jax.jit(model.apply)(variables, tokens, mask=jnp.asarray(mask))
    np.testing.assert_allclose(np.asarray(states)[mask], golden["states"][mask], atol=1e-5)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) > 22e6
