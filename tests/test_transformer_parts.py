"""What language models of today add to a transformer, each against its definition.

Chunked cross-entropy, z-loss, soft caps, windows, mixture of experts, recurrent mixers, and several
documents in a row. That they write the same tokens with a cache: test_sampling.py. Seen to fail:
chunks without their last part, experts without a capacity, documents that see each other,
a window one step longer, a router of one expert without a gradient, blocks counted with those that
have no attention, and each refusal.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jdl
from jdl.data.padding import padded
from jdl.layers import attention, attention_weights, linear_recurrence
from jdl.models.gpt import GPT
from jdl.models.mixture_of_experts import MixtureOfExperts
from jdl.models.recurrent_mixer import RecurrentMixer
from jdl.models.transformer import FeedForward, TransformerConfig
from jdl.objectives import next_token

SIZE, ROWS, STEPS = 11, 3, 12
SMALL = TransformerConfig(width=8, depth=1, heads=2, max_length=16)
TOKENS = jax.random.randint(jax.random.key(0), (ROWS, STEPS + 1), 0, SIZE)
SEED = 7


def loss_and_gradients(objective, variables, batch, train=True):
    def loss(params):
        out = objective.loss({"params": params}, batch, jax.random.key(SEED), train)
        return out.loss.value(), out

    (value, out), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    return out, value, gradients


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_chunked_cross_entropy_is_the_whole_one(tied):
    """Of a number of steps that the chunk does not divide, with padding, z-loss and a cap."""
    model = GPT(SIZE, SMALL, tied, logit_cap=5.0)
    batch = {"x": TOKENS, "length": jnp.asarray([13, 4, 9])}
    whole = next_token(model, z_loss=0.1)
    variables = jax.jit(whole.init)(jax.random.key(SEED), batch)
    expected = loss_and_gradients(whole, variables, batch)
    found = loss_and_gradients(next_token(model, chunk=5, z_loss=0.1), variables, batch)
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6)


@pytest.mark.slow
def test_chunked_cross_entropy_never_holds_the_logits():
    """By the compiled step's own count of its memory: below a third of one array of logits."""
    model, x = GPT(5_000, replace(SMALL, max_length=64)), jnp.zeros((4, 65), jnp.int32)
    logits = 4 * 64 * 5_000 * 4
    variables = jax.eval_shape(next_token(model).init, jax.random.key(SEED), {"x": x})

    def memory(chunk):
        objective = next_token(model, chunk=chunk)

        def total(params):
            return objective.loss(
                {"params": params}, {"x": x}, jax.random.key(SEED), True
            ).loss.total

        step = jax.jit(jax.grad(total)).lower(variables["params"]).compile()
        return step.memory_analysis().temp_size_in_bytes

    assert memory(4) < logits / 3
    assert memory(None) > logits


@pytest.mark.slow
def test_z_loss_is_of_the_normalizer_and_not_in_the_perplexity():
    model, batch = GPT(SIZE, SMALL), {"x": TOKENS}
    variables = jax.jit(next_token(model).init)(jax.random.key(SEED), batch)
    plain, out = (
        jax.jit(partial(next_token(model, z_loss=z).loss, key=jax.random.key(SEED), train=True))(
            variables, batch
        )
        for z in (0.0, 0.3)
    )
    z = jax.nn.logsumexp(model.apply(variables, TOKENS[:, :-1]), axis=-1)
    np.testing.assert_allclose(
        out.loss.value(), plain.loss.value() + 0.3 * (z**2).mean(), rtol=1e-5
    )
    np.testing.assert_array_equal(*(o.metrics["perplexity"].value() for o in (out, plain)))


@pytest.mark.slow
def test_soft_caps_are_hyperbolic_tangents():
    q, k, v = (3 * jax.random.normal(jax.random.key(n), (2, 5, 4, 8)) for n in range(3))
    k, v = k[:, :, ::2], v[:, :, ::2]
    scores = jnp.einsum("bthd,bshd->bhts", q, k.repeat(2, 2)) / np.sqrt(8)
    scores = jnp.where(jnp.tri(5, dtype=bool)[None, None], 2 * jnp.tanh(scores / 2), -jnp.inf)
    expected = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores), v.repeat(2, 2))
    np.testing.assert_allclose(attention(q, k, v, causal=True, cap=2.0), expected, atol=1e-6)
    weights = attention_weights(q, k, causal=True, cap=2.0)
    np.testing.assert_allclose(weights, jax.nn.softmax(scores), atol=1e-6)
    plain, capped = GPT(SIZE, SMALL), GPT(SIZE, SMALL, logit_cap=0.01)
    variables = plain.init(jax.random.key(SEED), TOKENS)
    logits = plain.apply(variables, TOKENS)
    found = capped.apply(variables, TOKENS)
    np.testing.assert_allclose(found, 0.01 * np.tanh(logits / 0.01), atol=1e-7)


@pytest.mark.parametrize(
    ("form", "reach"),
    [
        ({}, 11),
        ({"window": 3}, 2),
        ({"window": 3, "depth": 2}, 4),
        ({"window": 3, "depth": 2, "global_every": 2}, 11),
    ],
)
def test_a_window_is_how_far_a_step_sees(form, reach):
    model = GPT(SIZE, replace(SMALL, **form))
    x = TOKENS[:1, :12]
    moved = (x + jnp.eye(13, 12, dtype=x.dtype)[:, ::-1]) % SIZE  # the last row has no change
    out = jax.jit(model.apply)(jax.jit(model.init)(jax.random.key(SEED), x), moved)[:, -1]
    assert (out[:-1] != out[-1:]).any(-1).tolist() == [n <= reach for n in range(12)]


def test_blocks_with_attention_are_counted_where_others_have_none():
    c = TransformerConfig(depth=6, attention_every=2, window=3, global_every=2)
    assert [c.of_block(n).window for n in (1, 3, 5)] == [3, None, 3]


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"window": 2.5}, "window must be a whole number, at least 1, not 2.5"),
        ({"window": 0}, "window"),
        ({"experts": -1}, "experts must be"),
        ({"experts": 4.0}, "experts must be"),
        ({"experts": True}, "experts must be"),
        ({"attention_every": -2}, "attention_every must"),
        ({"attention_every": 2}, "attention_every is 2, and of 1 blocks none"),
        ({"window": 2, "global_every": -1}, "global_every must"),
        ({"window": 2, "global_every": 1}, "global_every=1"),
        ({"global_every": 2}, "give it a window"),
        ({"attention_cap": 0.0}, "attention_cap must be a number above 0"),
        ({"experts": 4, "capacity_factor": 0.0}, "capacity_factor must"),
        ({"experts": 4, "capacity_factor": float("nan")}, "capacity_factor must"),
    ],
)
def test_forms_without_a_sense_are_refused_by_name(form, message):
    with pytest.raises(jdl.Error, match=message):
        replace(SMALL, **form)


@pytest.mark.parametrize(
    "form",
    [{"chunk": 0}, {"chunk": 2.0}, {"chunk": True}, {"z_loss": -1.0}, {"balance": float("nan")}],
)
def test_settings_of_the_loss_without_a_sense_are_refused_by_name(form):
    with pytest.raises(jdl.Error, match=f"^{next(iter(form))}.* must be"):
        next_token(GPT(SIZE, SMALL), **form)
    with pytest.raises(jdl.Error, match="logit_cap must be"):
        GPT(SIZE, SMALL, logit_cap=0.0)


def test_experts_have_no_adapters_and_their_biases_are_no_matrices():
    objective = next_token(GPT(SIZE, replace(SMALL, experts=2)))
    init = partial(jax.eval_shape, batch={"x": TOKENS})
    with pytest.raises(jdl.Error, match="leave experts out of the targets"):
        init(jdl.lora(objective, "feed_forward").init, jax.random.key(SEED))
    kept = init(jdl.quantize(objective, "experts").init, jax.random.key(SEED))
    assert all(path.endswith("kernel") for path in kept["quantized"])


def test_distillation_needs_the_logits_that_chunks_do_not_hold():
    with pytest.raises(jdl.Error, match="leave out next_token"):
        jdl.distil(next_token(GPT(SIZE, SMALL), chunk=4), "given")


@pytest.mark.slow
def test_one_expert_is_a_dense_feed_forward():
    c, x = (
        replace(SMALL, experts=1, experts_per_token=1),
        jax.random.normal(jax.random.key(SEED), (2, 6, 8)),
    )
    experts = MixtureOfExperts(c, FeedForward)
    params = experts.init(jax.random.key(SEED), x, None, False)["params"]
    dense = {"params": jax.tree.map(lambda p: p[0], params["experts"])}
    expected = FeedForward(SMALL).apply(dense, x)
    for train in (True, False):
        found = experts.apply({"params": params}, x, None, train)
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.slow
def test_tokens_go_to_their_best_experts_and_late_ones_are_dropped():
    """Against a loop over tokens; the second row has padding, which takes no place."""
    c = replace(SMALL, experts=4, experts_per_token=2, capacity_factor=0.5)
    x, mask = (
        jax.random.normal(jax.random.key(SEED), (2, 8, 8)),
        jnp.arange(8)[None] < jnp.asarray([[8], [5]]),
    )
    layer = MixtureOfExperts(c, FeedForward)
    params = layer.init(jax.random.key(SEED), x, mask, True)["params"]
    for train, capacity in ((True, 2), (False, 8)):
        out, sown = layer.apply({"params": params}, x, mask, train, mutable=["intermediates"])
        scores = np.asarray(x @ params["router"]["kernel"])
        for row, length in enumerate((8, 5)):
            taken, dropped = np.zeros(4, int), 0
            for step in range(length):
                best = np.argsort(-scores[row, step])[:2]
                weights = jax.nn.softmax(scores[row, step, best])
                expected = np.zeros(8)
                for weight, e in zip(weights, best, strict=True):
                    own = {"params": jax.tree.map(lambda p, e=e: p[e], params["experts"])}
                    if taken[e] < capacity:
                        one = FeedForward(SMALL).apply(own, x[row, step][None, None])
                        expected += weight * one[0, 0]
                    taken[e] += 1
                np.testing.assert_allclose(out[row, step], expected, atol=1e-5)
            dropped = (taken - capacity).clip(0).sum() / (2 * length)
            found = sown["intermediates"]
            np.testing.assert_allclose(found["dropped"][0][row], dropped, rtol=1e-6)
            share = jax.nn.softmax(scores[row, :length]).mean(0)
            balance = 4 * (taken / (2 * length) * share).sum()
            np.testing.assert_allclose(found["balance"][0][row], balance, rtol=1e-5)


@pytest.mark.slow
def test_the_balance_of_experts_is_in_the_loss_and_the_metrics():
    model = GPT(SIZE, replace(SMALL, depth=2, experts=4))
    batch = {"x": TOKENS, "length": jnp.asarray([13, 4, 9])}
    variables = jax.jit(next_token(model).init)(jax.random.key(SEED), batch)
    assert set(variables) == {"params"}
    free = jax.jit(
        partial(next_token(model, balance=0.0).loss, key=jax.random.key(SEED), train=True)
    )
    free = free(variables, batch)
    out, loss, gradients = loss_and_gradients(next_token(model, balance=0.5), variables, batch)
    balance = out.metrics["balance"].value()
    np.testing.assert_allclose(
        loss, free.loss.value() + 0.5 * 2 * balance, rtol=1e-6
    )  # of two layers
    assert 1 < float(balance) < 4
    assert 0 < float(out.metrics["dropped"].value()) < 1
    np.testing.assert_array_equal(free.metrics["balance"].value(), balance)
    assert out.model_state == {}
    router = gradients["stack"]["block_0"]["feed_forward"]["router"]["kernel"]
    assert jnp.abs(router).max() > 1e-4


@pytest.mark.slow
def test_the_loss_teaches_a_router_that_chooses_one_expert():
    """Without the load-balancing loss: by the probability of the chosen expert among all."""
    objective = next_token(GPT(SIZE, replace(SMALL, experts=4, experts_per_token=1)), balance=0.0)
    variables = jax.jit(objective.init)(jax.random.key(SEED), {"x": TOKENS})
    _, _, gradients = loss_and_gradients(objective, variables, {"x": TOKENS})
    assert jnp.abs(gradients["stack"]["block_0"]["feed_forward"]["router"]["kernel"]).max() > 1e-4


@pytest.mark.slow
def test_a_recurrent_mixer_is_its_recurrence_step_by_step():
    """By the equations of RG-LRU in NumPy; and with a state, as one goes on from another."""
    x = np.asarray(jax.random.normal(jax.random.key(SEED), (2, 7, 8)))
    mixer = RecurrentMixer(SMALL)
    variables = mixer.init(jax.random.key(SEED), x)
    p = jax.tree.map(np.asarray, variables["params"])

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    u = np.pad(x @ p["in"]["kernel"], ((0, 0), (3, 0), (0, 0)))
    h, expected = np.zeros((2, 8)), []
    for t in range(7):
        v = (u[:, t : t + 4] * p["kernel"][None]).sum(1)
        r, i = np.split(sigmoid(v @ p["gates"]["kernel"] + p["gates"]["bias"][None]), 2, -1)
        a = np.exp(-8 * r * np.log1p(np.exp(p["decay"]))[None])
        h = a * h + np.sqrt(1 - a**2) * i * v
        gate = np.asarray(jax.nn.gelu(x[:, t] @ p["gate"]["kernel"]))
        expected.append((h * gate) @ p["out"]["kernel"])
    np.testing.assert_allclose(mixer.apply(variables, x), np.stack(expected, 1), atol=2e-6)
    a, b = (jax.random.uniform(jax.random.key(n), (2, 9, 3)) for n in range(2))
    whole = linear_recurrence(a, b, jnp.ones((2, 3)))
    first = linear_recurrence(a[:, :4], b[:, :4], jnp.ones((2, 3)))
    second = linear_recurrence(a[:, 4:], b[:, 4:], first[:, -1])
    np.testing.assert_allclose(whole, jnp.concatenate([first, second], 1), rtol=1e-6)
    np.testing.assert_allclose(linear_recurrence(a, b, jnp.ones((2, 3)), True), whole, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "form",
    [
        {"rotary": False},
        {"window": 3, "attention_cap": 4.0},
        {"depth": 2, "attention_every": 2, "experts": 3, "capacity_factor": 3.0},
    ],
)
def test_documents_in_a_row_are_as_if_alone(form):
    """The sum of the loss is that of the documents, one a row."""
    tokenizer = jdl.data.ByteTokenizer()
    texts = ["abcd", "ef", "ghijk"]
    packed = jdl.data.pack(texts, tokenizer, sum(map(len, texts)) + 5, separate=True)
    batch = packed.batches(1)[0]
    assert batch["segment"].tolist() == [[0] * 6 + [1] * 4 + [2] * 7]
    objective = next_token(GPT(tokenizer.vocab_size, replace(SMALL, **form)), balance=0.0)
    variables = jax.jit(objective.init)(jax.random.key(SEED), batch)
    loss = jax.jit(partial(objective.loss, key=jax.random.key(SEED), train=True))
    found = loss(variables, batch).loss
    rows = [[tokenizer.eos_id, *tokenizer.encode(text), tokenizer.eos_id] for text in texts]
    x, length = padded(rows, 7, fill=0)
    expected = loss(variables, {"x": jnp.asarray(x), "length": jnp.asarray(length)}).loss
    assert float(found.count) == float(expected.count) == 14
    np.testing.assert_allclose(found.total, expected.total, rtol=2e-6)
    mixed = {name: column for name, column in batch.items() if name != "segment"}
    assert abs(float(loss(variables, mixed).loss.total - found.total)) > 1


def test_models_that_would_mix_documents_are_refused():
    from jdl.models.rnn import RNN

    model = RNN(SIZE, (4,), vocab_size=SIZE, return_sequences=True)
    batch = {"x": TOKENS, "segment": jnp.zeros_like(TOKENS)}
    with pytest.raises(jdl.Error, match="no argument segment"):
        next_token(model).check(batch, {})
    with pytest.raises(jdl.Error, match="segment says of the tokens"):
        next_token(GPT(SIZE, SMALL)).check({**batch, "segment": TOKENS[:, 1:]}, {})
    with pytest.raises(jdl.Error, match="has no hidden_states"):
        next_token(model, chunk=4)


def test_sizes_that_do_not_divide_are_named_each_alone():
    with pytest.raises(jdl.Error, match=r"^width, 64, must be a multiple of heads, 3\.$"):
        TransformerConfig(width=64, heads=3)
    with pytest.raises(jdl.Error, match=r"^heads, 4, must be a multiple of kv_heads, 3\.$"):
        TransformerConfig(width=64, heads=4, kv_heads=3)
