"""Objectives over sequences against formulas written out, and their masks."""

import inspect
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jdl
from jdl.data import ByteTokenizer
from jdl.models.bert import BERT
from jdl.models.gpt import GPT
from jdl.models.rnn import RNN
from jdl.models.t5 import T5
from jdl.models.transformer import TransformerConfig
from jdl.models.whisper import Whisper, sinusoids
from jdl.objectives import classify, ctc, forecast, masked_token, next_token, seq2seq
from jdl.objectives.ctc_decoding import best_path
from jdl.train.evaluate import evaluator

ROWS, STEPS, SIZE = 4, 7, 9
SMALL = TransformerConfig(width=8, depth=1, heads=2, max_length=16)
TOKENS = jax.random.randint(jax.random.key(0), (ROWS, STEPS), 0, SIZE)
LENGTHS = jnp.asarray([7, 5, 2, 3])
MASK = jnp.asarray([True, True, True, False])
REAL = np.asarray((jnp.arange(STEPS)[None] < LENGTHS[:, None]) & MASK[:, None])


def log_softmax(x):
    x = np.asarray(x, np.float64)
    return (
        x
        - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - x.max(-1, keepdims=True)
    )


def nats_at(logits, targets):
    return -np.take_along_axis(log_softmax(logits), np.asarray(targets)[..., None], -1)[..., 0]


def evaluated(objective, batch, train=False):
    variables = jax.jit(objective.init)(jax.random.key(1), batch)
    loss = jax.jit(objective.loss, static_argnums=3)
    return variables, loss(variables, batch, jax.random.key(2), train)


@pytest.mark.slow
def test_next_token_is_the_cross_entropy_of_real_targets():
    model, batch = GPT(SIZE, SMALL), {"x": TOKENS, "length": LENGTHS, "mask": MASK}
    variables, out = evaluated(next_token(model, bytes_per_token=2.5), batch)
    nats = nats_at(model.apply(variables, TOKENS[:, :-1]), TOKENS[:, 1:])[REAL[:, 1:]]
    assert float(out.loss.count) == REAL[:, 1:].sum()
    np.testing.assert_allclose(out.loss.value(), nats.mean(), rtol=1e-5)
    np.testing.assert_allclose(out.metrics["perplexity"].value(), np.exp(nats.mean()), rtol=1e-5)
    np.testing.assert_allclose(
        out.metrics["bits_per_byte"].value(), nats.mean() / np.log(2) / 2.5, rtol=1e-5
    )


@pytest.mark.slow
def test_masked_tokens_are_selected_by_row_and_replaced_as_published():
    tokenizer, inputs_of = ByteTokenizer(), []

    class Spy:
        def init(self, keys, x):
            return {"params": {"w": jnp.zeros(())}}

        def signature(self, method):
            return inspect.signature(lambda x: None)

        def apply(self, variables, x, **_):
            inputs_of.append(x)
            return jnp.zeros((*x.shape, tokenizer.vocab_size)) + variables["params"]["w"], {}

    x = jax.random.randint(jax.random.key(3), (64, 200), 0, 256)
    batch = {"x": x, "id": jnp.arange(64), "length": jnp.full(64, 150), "mask": jnp.ones(64, bool)}
    objective = masked_token(Spy(), tokenizer, mask_rate=0.2)
    variables = objective.init(jax.random.key(0), batch)
    out = objective.loss(variables, batch, jax.random.key(0), False)
    inputs, x = np.asarray(inputs_of[-1])[:, :150], np.asarray(x)[:, :150]
    share = float(out.loss.count) / x.size
    assert share == pytest.approx(0.2, abs=0.01)
    assert (inputs == tokenizer.mask_id).mean() / share == pytest.approx(0.8, abs=0.03)
    assert ((inputs != x) & (inputs != tokenizer.mask_id)).mean() / share == pytest.approx(
        0.1, abs=0.02
    )
    np.testing.assert_allclose(out.loss.value(), np.log(tokenizer.vocab_size), rtol=1e-6)

    objective.loss(variables, batch, jax.random.key(7), False)  # in evaluation, whatever the key
    np.testing.assert_array_equal(inputs_of[-1], inputs_of[-2])
    reverse = {name: column[::-1] for name, column in batch.items()}
    objective.loss(variables, reverse, jax.random.key(7), False)  # by id, and not by position
    np.testing.assert_array_equal(inputs_of[-1][::-1], inputs_of[-2])
    objective.loss(variables, {**batch, "id": batch["id"] + 1}, jax.random.key(7), False)
    assert (inputs_of[-1] != inputs_of[-3]).any()


@pytest.mark.slow
def test_seq2seq_is_trained_by_teacher_forcing():
    model = T5(SIZE, SMALL)
    y = jax.random.randint(jax.random.key(4), (ROWS, 5), 1, SIZE)
    counts = jnp.asarray([5, 2, 4, 1])
    batch = {"x": TOKENS, "length": LENGTHS, "y": y, "y_length": counts, "mask": MASK}
    objective = seq2seq(model, eos_id=0, smoothing=0.1, max_new_tokens=6)
    variables, out = evaluated(objective, batch)
    so_far = np.concatenate([np.zeros((ROWS, 1), np.int32), np.asarray(y)[:, :-1]], 1)
    reads = (jnp.arange(STEPS)[None] < LENGTHS[:, None]) & MASK[:, None]
    logits = model.apply(variables, TOKENS, jnp.asarray(so_far), mask=reads)
    real = np.asarray((jnp.arange(5)[None] < counts[:, None]) & MASK[:, None])
    nats = nats_at(logits, y)
    smoothed = 0.9 * nats + 0.1 * -log_softmax(logits).mean(-1)
    np.testing.assert_allclose(out.loss.value(), smoothed[real].mean(), rtol=1e-5)
    np.testing.assert_allclose(
        out.metrics["perplexity"].value(), np.exp(nats[real].mean()), rtol=1e-5
    )
    written = jax.jit(objective.predict)(variables, batch)["tokens"]
    assert written.shape == (ROWS, 6)
    ended = np.maximum.accumulate(np.asarray(written) == 0, 1)
    assert (np.asarray(written)[ended] == 0).all()


@pytest.mark.slow
def test_start_tokens_are_given_and_not_learned():
    """Seen to fail: with the end token first, and with the logits of the start tokens learned."""
    model, y = T5(SIZE, SMALL), TOKENS[:, :5]
    batch = {"x": TOKENS, "length": LENGTHS, "y": y, "y_length": jnp.asarray([5, 2, 4, 1])}
    objective = seq2seq(model, eos_id=0, start=(3, 7), max_new_tokens=4)
    variables, out = evaluated(objective, batch)
    start = jnp.tile(jnp.asarray([[3, 7]]), (ROWS, 1))
    reads = jnp.arange(STEPS)[None] < LENGTHS[:, None]
    so_far = jnp.concatenate([start, y[:, :-1]], 1)
    logits = model.apply(variables, TOKENS, so_far, mask=reads)[:, 1:]
    real = np.arange(5)[None] < np.asarray(batch["y_length"])[:, None]
    np.testing.assert_allclose(out.loss.value(), nats_at(logits, y)[real].mean(), rtol=1e-5)
    first = model.apply(variables, TOKENS, start, mask=reads)[:, -1].argmax(-1)
    written = jax.jit(objective.predict)(variables, batch)["tokens"]
    np.testing.assert_array_equal(written[:, 0], first)


@pytest.mark.slow
def test_whisper_learns_and_its_positions_stay():
    model = Whisper(SIZE, replace(SMALL, rotary=False), n_mels=20, places=5)
    x = jax.random.normal(jax.random.key(1), (ROWS, 1_500))
    batch = {"x": x, "length": LENGTHS * 200, "y": TOKENS[:, :3], "y_length": jnp.full(ROWS, 3)}
    objective = seq2seq(model, eos_id=0, start=(3, 7))
    objective.check(jax.eval_shape(lambda: batch), {})
    assert objective.max_new_tokens == 15
    learner = jdl.descent(objective, optax.adamw(1e-2, weight_decay=0.1))
    before = state = jax.jit(learner.init)(jax.random.key(0), batch)
    step = jax.jit(learner.step)
    losses = []
    for _ in range(30):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"].value()))
    assert losses[-1] < losses[0] / 2
    jax.tree.map(np.testing.assert_array_equal, state.model_state, before.model_state)
    (second,) = sinusoids(3, 4)[2:]
    expected = [np.sin(2), np.sin(2e-4), np.cos(2), np.cos(2e-4)]
    np.testing.assert_allclose(second, expected, rtol=1e-6)
    with pytest.raises(jdl.Error, match=r"up to 1,600 samples, 0\.1 s"):
        model.init(jax.random.key(0), jnp.zeros((1, 1_601)), TOKENS)


@pytest.mark.slow
def test_whisper_hears_silence_where_the_mask_is_false():
    model = Whisper(SIZE, replace(SMALL, rotary=False), n_mels=20, places=5)
    x, mask = jax.random.normal(jax.random.key(1), (2, 1_500)), jnp.arange(1_500)[None] < 800
    variables = model.init(jax.random.key(0), x, TOKENS[:2])
    masked = model.apply(variables, x, TOKENS[:2], mask=jnp.tile(mask, (2, 1)))
    shorter = model.apply(variables, x[:, :800], TOKENS[:2])
    np.testing.assert_array_equal(masked, shorter)
    assert (masked != model.apply(variables, x, TOKENS[:2])).any()


@pytest.mark.slow
def test_ctc_sums_over_all_alignments():
    """Against the sum over every path of labels and blanks that reads as y, for short sequences."""
    frames, labels, steps = 2, 3, 2
    model = RNN(frames * labels, (5,), return_sequences=True)
    x = jax.random.normal(jax.random.key(5), (3, steps, 4))
    y = jnp.asarray([[1, 2], [2, 0], [1, 1]])
    batch = {"x": x, "length": jnp.asarray([2, 1, 2]), "y": y, "y_length": jnp.asarray([2, 1, 2])}
    objective = ctc(model, frames)
    variables, out = evaluated(objective, batch)
    logits = model.apply(
        variables, x, mask=jnp.asarray([[True, True], [True, False], [True, True]])
    )
    nats = log_softmax(np.asarray(logits).reshape(3, steps * frames, labels))
    total = 0.0
    for row, (length, label) in enumerate(((4, (1, 2)), (2, (2,)), (4, (1, 1)))):
        paths = np.stack(np.meshgrid(*[np.arange(labels)] * length, indexing="ij"), -1).reshape(
            -1, length
        )
        reads = [path for path in paths if read(path) == label]
        chances = [
            np.exp(sum(nats[row, n, label] for n, label in enumerate(path))) for path in reads
        ]
        total -= np.log(sum(chances))
    np.testing.assert_allclose(out.loss.value(), total / 3, rtol=1e-4)
    predicted = jax.jit(objective.predict)(variables, batch)
    for row, length in enumerate((4, 2, 4)):
        best = read(nats[row, :length].argmax(-1))
        assert (
            tuple(np.asarray(predicted["labels"])[row, : int(predicted["length"][row])].tolist())
            == best
        )


def read(path):
    """The labels of a CTC path: repeats merged, blanks removed."""
    return tuple(int(a) for n, a in enumerate(path) if a != 0 and (n == 0 or a != path[n - 1]))


def test_the_best_path_is_merged_and_packed_to_the_left():
    path = jnp.asarray([[0, 1, 1, 0, 1, 2], [2, 2, 0, 0, 0, 3]])
    real = jnp.asarray([[True] * 6, [True] * 3 + [False] * 3])
    labels, lengths = best_path(jax.nn.one_hot(path, 4), real)
    np.testing.assert_array_equal(lengths, [3, 1])
    np.testing.assert_array_equal(labels, [[1, 1, 2, 0, 0, 0], [2, 0, 0, 0, 0, 0]])


def test_metrics_of_forecasts_are_in_the_unit_of_the_series():
    model = RNN(3, (4,))
    x, y = (
        jax.random.normal(jax.random.key(6), (ROWS, 5, 2)),
        jax.random.normal(jax.random.key(7), (ROWS, 3)),
    )
    batch = {"x": x, "y": y, "naive": y + 2.0, "mask": MASK}
    variables, out = evaluated(forecast(model, scale=10.0), batch)
    error = np.abs(np.asarray(model.apply(variables, x)) - np.asarray(y))[np.asarray(MASK)]
    np.testing.assert_allclose(out.loss.value(), error.mean(), rtol=1e-5)
    np.testing.assert_allclose(out.metrics["mae"].value(), 10 * error.mean(), rtol=1e-5)
    np.testing.assert_allclose(out.metrics["mse"].value(), 100 * (error**2).mean(), rtol=1e-5)
    np.testing.assert_allclose(out.metrics["naive_mae"].value(), 20.0, rtol=1e-5)


@pytest.mark.slow
def test_a_label_for_every_step_is_classification_too():
    model = RNN(SIZE, (6,), return_sequences=True, vocab_size=SIZE, embedding_width=4)
    batch = {"x": TOKENS, "y": TOKENS[:, ::-1], "length": LENGTHS, "mask": MASK}
    variables, out = evaluated(classify(model), batch)
    steps = jnp.asarray(REAL)
    logits = np.asarray(model.apply(variables, TOKENS, mask=steps))
    nats, right = (
        nats_at(logits, batch["y"])[REAL],
        (logits.argmax(-1) == np.asarray(batch["y"]))[REAL],
    )
    np.testing.assert_allclose(out.loss.value(), nats.mean(), rtol=1e-5)
    np.testing.assert_allclose(out.metrics["accuracy"].value(), right.mean(), rtol=1e-6)
    assert int(out.metrics["confusion"].counts.sum()) == REAL.sum()
    assert 0 <= float(out.metrics["iou"].value()) <= 1


@pytest.mark.slow
def test_states_are_carried_over_streams_and_only_there():
    """Two windows with carried states are one window of both, and `start` resets a row."""
    whole = jax.random.randint(jax.random.key(8), (2, 9), 0, SIZE)
    model = RNN(
        SIZE, (6, 5), vocab_size=SIZE, embedding_width=4, return_sequences=True, stateful=True
    )
    learner = jdl.descent(next_token(model), optax.sgd(0.0))
    first, second = {"x": whole[:, :5]}, {"x": whole[:, 4:]}
    state = jax.jit(learner.init)(jax.random.key(0), first)
    step = jax.jit(learner.step)
    between, one = step(state, first)
    _, two = step(between, second)
    plain = next_token(RNN(SIZE, (6, 5), vocab_size=SIZE, embedding_width=4, return_sequences=True))
    expected = plain.loss({"params": state.params}, {"x": whole}, jax.random.key(0), False).loss
    np.testing.assert_allclose((one["loss"] + two["loss"]).value(), expected.value(), rtol=1e-5)

    def anew(batch):
        return plain.loss({"params": state.params}, batch, jax.random.key(0), False).loss.value()

    variables = learner.eval_variables(between)
    output = learner.objective.loss(variables, second, jax.random.key(0), False)
    np.testing.assert_allclose(output.loss.value(), anew(second), rtol=1e-6)
    _, forgotten = step(between, {**second, "start": jnp.asarray([True, True])})
    np.testing.assert_allclose(forgotten["loss"].value(), anew(second), rtol=1e-6)
    assert abs(float(two["loss"].value()) - float(anew(second))) > 1e-4
    windows = jnp.stack([first["x"], second["x"]], 1).reshape(4, 5)
    metric = evaluator(learner, jdl.data.arrays(x=windows).contiguous_batches(2))(between)["loss"]
    np.testing.assert_allclose(metric.value(), expected.value(), rtol=1e-5)
    metric = evaluator(learner, jdl.data.arrays(x=windows).batches(2))(between)["loss"]
    np.testing.assert_allclose(metric.value(), (anew(first) + anew(second)) / 2, rtol=1e-5)
    with pytest.raises(jdl.Error, match="micro_batches=1"):
        jdl.descent(next_token(model), optax.sgd(0.0), micro_batches=2).step(state, first)


@pytest.mark.parametrize(
    ("objective", "batch", "bounds", "message"),
    [
        (next_token(GPT(SIZE, SMALL)), {"x": TOKENS}, {"x": (0, SIZE)}, "vocabulary of 10"),
        (next_token(GPT(SIZE, SMALL)), {"x": TOKENS[:, :1]}, {}, "at least 2 tokens"),
        (next_token(GPT(SIZE, SMALL)), {"x": jnp.ones((2, 5))}, {}, "whole numbers"),
        (
            next_token(GPT(SIZE, SMALL)),
            {"x": jnp.ones((2, 30), jnp.int32)},
            {},
            "TransformerConfig.max_length",
        ),
        (next_token(GPT(SIZE, SMALL)), {"z": TOKENS}, {}, "column x"),
        (
            masked_token(BERT(258, SMALL, outputs=3), ByteTokenizer()),
            {"x": TOKENS},
            {},
            "for every token",
        ),
        (
            seq2seq(T5(SIZE, SMALL), 0),
            {"x": TOKENS, "y": TOKENS},
            {"y": (0, 99)},
            "tokens of y run",
        ),
        (seq2seq(T5(SIZE, SMALL), 0), {"x": TOKENS}, {}, "column y"),
        (
            seq2seq(T5(SIZE, SMALL), 0),
            {"x": TOKENS.astype(float), "y": TOKENS},
            {},
            "whole numbers, and these are float32",
        ),
        (
            ctc(RNN(5, return_sequences=True), 2),
            {"x": jnp.ones((2, 3, 1)), "y": TOKENS},
            {},
            "ctc needs logits",
        ),
        (
            ctc(RNN(4, return_sequences=True), 2),
            {"x": jnp.ones((2, 3, 1)), "y": TOKENS},
            {"y": (0, 2)},
            "has 2 outputs",
        ),
    ],
)
def test_refusals_name_what_is_wrong(objective, batch, bounds, message):
    spec = jax.eval_shape(lambda: batch)
    with pytest.raises(jdl.Error, match=message):
        objective.check(spec, bounds)


@pytest.mark.slow
def test_more_tokens_than_the_model_can_decode_are_refused():
    with pytest.raises(jdl.Error, match="16 tokens at most, and max_new_tokens=17"):
        seq2seq(T5(SIZE, SMALL), 0, max_new_tokens=17)
    with pytest.raises(jdl.Error, match="15 tokens at most, and max_new_tokens=16"):
        seq2seq(T5(SIZE, SMALL), 0, max_new_tokens=16, start=(3, 7))
    for tokens in (0, -1):  # None is the limit
        with pytest.raises(jdl.Error, match=f"1 token or more, .* max_new_tokens={tokens}"):
            seq2seq(T5(SIZE, SMALL), 0, max_new_tokens=tokens)
    with pytest.raises(jdl.Error, match="begins with 1 to 16 tokens"):
        seq2seq(T5(SIZE, SMALL), 0, start=())
