"""Several heads of one model, at once.

`EVERY` has all objectives with targets as heads of one model, with weights, unknown labels and
padding: what it keeps (exact sums over parts of a batch and over devices, repeats to the bit), each
of them keeps. Seen to fail: as the tests say.
"""

from dataclasses import dataclass, replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_targets import (
    BY_CLASS,
    LOGITS,
    MANY,
    NUMBERS,
    ONE,
    RNG,
    ROWS,
    SOFT,
    WEIGHT,
    Given,
    Y,
    check,
    loss_of,
    output_of,
)

import jdl
from jdl.learners import jit_learner, mixed_precision, with_data
from jdl.metrics import Confusion, MultiLabelF1, merge, scalars
from jdl.objectives import (
    Head,
    classify,
    classify_binary,
    focal_loss,
    heads,
    multi_label,
    ordinal,
    quantiles,
    regress,
)
from jdl.parallel import build_mesh, pmap_learner, pmap_mesh, shard_data, shard_learner
from jdl.store.checkpoints import state_digest
from jdl.train.preemption import PausedError
from jdl.train.summary import summarize


class Trunk(nn.Module):
    """A shared layer, and an output for each head."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(8)(x))
        sizes = {"digit": 4, "soft": 4, "many": 4, "grade": 3, "spread": 3, "size": 2, "odd": 1}
        out = {name: nn.Dense(size, name=name)(x) for name, size in sizes.items()}
        return {**out, "dense": nn.Dense(8, name="dense")(x).reshape(-1, 2, 4)}


EVERY = heads(
    Trunk(),
    digit=partial(classify, smoothing=0.1, class_weights=BY_CLASS),
    soft=Head(partial(classify, loss=focal_loss()), weight=0.5),
    many=partial(multi_label, positive_weights=BY_CLASS),
    grade=Head(partial(ordinal, row_weights="weight"), target="digit"),
    spread=Head(quantiles, weight=0.1, target="number"),
    size=Head(partial(regress, row_weights="weight"), weight=0.3),
    odd=partial(classify_binary, class_weights=(1, 2)),
    dense=classify,
)


DATA = {
    "x": jnp.asarray(RNG.normal(size=(ROWS, 5)), jnp.float32),
    **{"digit": Y, "soft": SOFT, "many": MANY.at[:, 1].set(-1).at[3].set(-1), "number": NUMBERS},
    **{"size": LOGITS[:, 2:], "odd": Y % 2, "weight": WEIGHT},
    "dense": jnp.stack([Y, jnp.full(ROWS, -1)], 1).at[5].set(-1),
}


REAL = {name: column[:10] for name, column in DATA.items()}


PADDED = {**DATA, "mask": jnp.arange(ROWS) < 10}


LEARNER = jdl.descent(EVERY, optax.sgd(0.1))


@pytest.fixture(scope="module")
def start():
    return jit_learner(LEARNER).init(jax.random.key(0), PADDED)


@pytest.fixture(scope="module")
def alone(start):
    """Two steps on one device, and the last numbers."""
    return steps(jax.jit(LEARNER.step), start, [PADDED] * 2)


def steps(step, state, batches):
    for batch in batches:
        state, metrics = step(state, batch)
    return jax.device_get(state.params), scalars(jax.device_get(metrics))


def agree(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6, rtol=1e-5)


@pytest.mark.slow
def test_parts_of_a_batch_add_up_and_padding_may_hold_anything(start):
    """Seen to fail with the heads' means added; and with weights of padding rows not left out."""
    wild = {
        name: column.at[10:].set(jnp.nan if name == "weight" else 77)
        for name, column in DATA.items()
    }
    wild["mask"] = PADDED["mask"]

    @jax.jit
    def grads(batch):
        def total(params):
            output = EVERY.loss({"params": params}, batch, jax.random.key(0), False)
            return output.loss.total, {"loss": output.loss, **output.metrics}

        return jax.grad(total, has_aux=True)(start.params)

    parts = [grads({name: column[m::3] for name, column in wild.items()}) for m in range(3)]
    expected, numbers = grads(REAL)
    agree(jax.tree.map(lambda *leaves: sum(leaves), *(part[0] for part in parts)), expected)
    added = scalars(merge([part[1] for part in parts]))
    assert added == pytest.approx(scalars(merge([numbers])), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["pmap=4", pytest.param("data=4", marks=pytest.mark.slow)])
def test_several_devices_compute_what_one_computes(start, alone, way):
    data = jdl.data.arrays(**{name: np.asarray(column) for name, column in REAL.items()})
    data = data.batches(ROWS)
    if way == "pmap=4":
        mesh = pmap_mesh(jax.devices()[:4])
        data = shard_data(data, mesh)
        run = pmap_learner(LEARNER, data, mesh)
    else:
        mesh = build_mesh(way)
        data = shard_data(data, mesh)
        run = jit_learner(shard_learner(with_data(LEARNER, data), mesh))
    raw = next(data.read())
    found = steps(run.step, run.init(jax.random.key(0), data[0]), [raw] * 2)
    agree(found, alone)


@pytest.mark.slow
def test_heads_learn_in_half_precision():
    learner = mixed_precision(jdl.descent(EVERY, optax.adam(3e-2)), "bfloat16")
    state, step = learner.init(jax.random.key(0), PADDED), jax.jit(learner.step)
    losses = []
    for _ in range(8):
        state, metrics = step(state, PADDED)
        losses.append(float(metrics["loss"].value()))
    assert losses[-1] < 0.9 * losses[0]
    assert metrics["digit/loss"].total.dtype == jnp.float32


def test_the_loss_of_heads_is_the_weighted_sum_of_theirs():
    """Of one known in every third row, a third: it is a mean over all rows."""
    out = {"a": LOGITS, "b": LOGITS[:, :2], "c": LOGITS}
    third = jnp.arange(ROWS) % 3 == 0
    c = jnp.where(third[:, None], MANY, -1)
    columns = {"x": out, "a": Y, "numbers": LOGITS[:, 2:], "c": c}

    class Outputs(nn.Module):
        @nn.compact
        def __call__(self, x):
            return out

    objective = heads(Outputs(), a=classify, b=Head(regress, 0.3, "numbers"), c=multi_label)
    output = output_of(objective, **{**columns, "x": LOGITS})
    a = loss_of(classify(Given()), x=LOGITS, y=Y)
    b = loss_of(regress(Given()), x=out["b"], y=LOGITS[:, 2:])
    c = loss_of(multi_label(Given()), x=LOGITS, y=c)
    assert float(output.loss.value()) == pytest.approx(a + 0.3 * b + c / 3, rel=1e-5)
    assert float(output.metrics["b/loss"].value()) == pytest.approx(b, rel=1e-6)
    assert float(output.metrics["c/loss"].value()) == pytest.approx(c, rel=1e-6)
    assert isinstance(output.metrics["a/confusion"], Confusion)
    assert isinstance(output.metrics["c/f1"], MultiLabelF1)
    made = objective.predict(ONE, {"x": LOGITS})
    assert set(made) == {"a/label", "a/probability", "b/value", "c/label", "c/probability"}
    np.testing.assert_array_equal(made["a/label"], LOGITS.argmax(-1))


def test_values_of_a_head_have_the_shape_of_its_targets():
    """Seen to fail with (B,) beside (B, 1), whose difference is (B, B)."""
    model = jdl.adapt_model(Given(), outputs=lambda out: {"a": out, "b": out})
    objective = heads(model, a=regress, b=Head(regress, target="c"))
    x = LOGITS[:, :1]
    made = objective.predict(ONE, {"x": x, "a": x, "c": x[:, 0]})
    assert (made["a/value"].shape, made["b/value"].shape) == ((ROWS, 1), (ROWS,))
    assert objective.predict(ONE, {"x": x})["a/value"].shape == (ROWS,)


@dataclass(frozen=True)
class Config(jdl.Config):
    name: str = "heads"
    steps: int = 4


@pytest.mark.slow
def test_a_run_of_heads_repeats_resumes_and_is_restored(tmp_path):
    data = jdl.data.arrays(**{name: np.asarray(column) for name, column in REAL.items()})
    script = tmp_path / "heads.py"
    script.write_text("")
    objective = heads(Trunk(), odd=classify_binary, dense=classify, many=multi_label)
    learner, batches = jdl.descent(objective, optax.adam(1e-2)), data.shuffled(4, 0)
    run = jdl.Run(Config(), learner, batches, test=data.batches(4), best="max many/f1/macro")

    def fit(folder, **options):
        options = jdl.Options(root=tmp_path / folder, quiet=True, save_every=1, **options)
        return jdl.fit(run, options, script)

    whole = fit("whole")
    with pytest.raises(PausedError):
        fit("paused", until=2)
    resumed = fit("paused")
    assert resumed.steps == 2
    assert state_digest(resumed.state) == state_digest(whole.state)
    assert scalars(resumed.metrics["test"]) == scalars(whole.metrics["test"])
    assert "test   odd/confusion/f1" in summarize(resumed, labels=("yes", "no"))
    assert (resumed.folder / "figures" / "test_dense_confusion.png").exists()


@pytest.mark.parametrize(
    ("objective", "columns", "message"),
    [
        (heads(Given(), a=classify), {"a": Y}, "a, but it gives no dict"),
        (replace(EVERY, model=Trunk()), {**DATA, "odd": Y}, "The head odd, whose y is the column"),
        (EVERY, {**DATA, "soft": MANY}, "The head soft, .*are for jdl.objectives.multi_label"),
    ],
)
def test_data_that_do_not_fit_heads_are_refused(objective, columns, message):
    with pytest.raises(jdl.Error, match=message):
        check(objective, columns)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (heads, "at least one"),
        (partial(heads, a=Head(classify, weight=-1.0)), "weight of the head a"),
        (partial(heads, a=jdl.objectives.next_token), "a supervised objective"),
    ],
)
def test_arguments_of_heads_that_make_no_sense_are_refused(make, message):
    with pytest.raises(jdl.Error, match=message):
        make(Given())
