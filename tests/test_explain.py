"""`jdl explain`: its figures, against values by hand, and what does not apply.

Seen to fail: with the least sure row of a cell, with grouped heads in another order, with the
layers of a rollout reversed, with a line from the end to the start, with rows in the data's order,
and with an exception of a figure that ends all.
"""

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from explained_models import KEY, Plain, made, trained_digits

import jdl
from jdl import explain
from jdl.explain.attention import is_stack, patch_grid
from jdl.explain.boundary import decision_grid
from jdl.explain.embeddings import pca, probe_layers
from jdl.explain.groups import by_group, by_value, largest_gap
from jdl.explain.loss_line import barrier, beginning, log_scale, loss_line
from jdl.explain.maps import first_filters
from jdl.explain.mistakes import confusions, top_losses
from jdl.explain.report import FIGURES
from jdl.explain.report import explain as explain_run
from jdl.explain.subject import Subject
from jdl.inspect.by_row import metrics_by_row
from jdl.inspect.evaluate import evaluate
from jdl.inspect.restore import TrainedRun
from jdl.models.cnn import CNN
from jdl.models.mlp import MLP
from jdl.models.transformer import MultiHeadAttention, TransformerConfig
from jdl.models.vit import ViT
from jdl.objectives import classify
from jdl.objectives.pretrained_model import Weights


@pytest.fixture(scope="module")
def digits():
    return trained_digits()


def test_the_surest_row_of_each_cell_is_its_example():
    y, label = np.asarray([0, 0, 1, 1, 1]), np.asarray([0, 1, 1, 1, 0])
    found = confusions(y, label, np.asarray([0.6, 0.9, 0.7, 0.8, 0.5]), 3)
    assert found.counts.tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]
    assert found.examples.tolist() == [[0, 1, -1], [4, 3, -1], [-1, -1, -1]]


def test_losses_that_are_nan_come_first(digits, monkeypatch):
    losses = np.asarray([1.0, np.inf, np.nan, 3.0])
    monkeypatch.setattr("jdl.explain.mistakes.metrics_by_row", lambda *_: {"loss": losses})
    assert top_losses(Subject(digits, (0,)))[0].tolist() == [2, 1, 3, 0]


def test_the_highest_losses_come_first(digits):
    rows, losses = top_losses(Subject(digits, (0,)), 5)
    every = metrics_by_row(digits)["loss"]
    assert len(every) == 100
    assert losses.tolist() == sorted(every.tolist(), reverse=True)[:5]
    assert every[rows].tolist() == losses.tolist()


def test_groups_of_a_column_are_told_apart():
    assert by_value(np.asarray([1234567, 1234568])).tolist() == ["1234567", "1234568"]
    assert by_value(np.asarray(["a", "b"])).tolist() == ["a", "b"]
    names, counts = np.unique(by_value(np.arange(100.0)), return_counts=True)
    assert sorted(counts) == [25] * 4, names
    mostly_0 = by_value(np.append(np.zeros(970), np.arange(1.0, 31)))
    assert sorted(np.unique(mostly_0, return_counts=True)[1]) == [1000]


def test_metrics_by_group_and_the_largest_gap():
    rng = np.random.default_rng(0)
    values = (rng.random(300) < np.repeat([0.9, 0.6, 0.75], 100)).astype(float)
    names = np.repeat(["a", "b", "c"], 100)
    groups = by_group(np.append(values, 0.0), [*names, "few"])
    means = {group.name: group.mean for group in groups}
    assert means == {**{n: values[names == n].mean() for n in "abc"}, "few": 0.0}
    assert groups[-1].interval is None  # one row
    low, high, (least, most) = largest_gap(groups)
    assert (low.name, high.name) == ("b", "a")
    assert 0 < least < high.mean - low.mean < most
    assert largest_gap(groups[-1:]) is None


def test_the_boundary_of_a_linear_model_is_a_line():
    objective, variables, batch = made(MLP(2), (50, 2))
    first, second, grid = decision_grid(objective, variables, np.asarray(batch["x"]), 20)
    params = variables["params"]["Dense_0"]
    weights = np.asarray(params["kernel"][:, 1] - params["kernel"][:, 0])
    x = np.stack(np.meshgrid(first, second), -1)  # [row of the second, column of the first]
    assert np.array_equal(grid, (x @ weights > 0).astype(int))
    assert 0 < grid.mean() < 1
    assert first[0] < batch["x"][:, 0].min() < batch["x"][:, 0].max() < first[-1]


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_attention_maps_of_jdl_give_the_layers_output(kv_heads):
    """What the layer gives is the maps times the values, projected: masked, causal, rotated.

    Seen to fail: maps that know no window, or no documents.
    """
    config = TransformerConfig(width=16, heads=4, kv_heads=kv_heads, window=4)
    layer = MultiHeadAttention(config, causal=True)
    x = np.random.default_rng(0).normal(size=(2, 5, 16)).astype(np.float32)
    mask = jnp.arange(5)[None] < jnp.asarray([[5], [3]])
    inputs = x, None, mask, False, None, jnp.asarray([[0] * 5, [0, 1, 1, 1, 1]])
    variables = layer.init(KEY, *inputs)
    maps = explain.attention_maps(lambda: layer.apply(variables, *inputs))
    (weights,) = maps.values()
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    assert not weights[:, :, 1, 2:].any()
    assert not weights[1, :, :, 3:].any()
    assert not weights[0, :, 4, 0].any()
    assert not weights[1, :, 1:, 0].any()
    params = jax.tree.map(np.asarray, variables["params"])
    values = (x @ params["value"]["kernel"] + params["value"]["bias"]).reshape(2, 5, kv_heads, 4)
    read = np.einsum("bhts,bshd->bthd", weights, values.repeat(4 // kv_heads, 2)).reshape(2, 5, 16)
    expected = read @ params["out"]["kernel"] + params["out"]["bias"]
    np.testing.assert_allclose(expected, layer.apply(variables, *inputs), atol=1e-5)


def test_attention_maps_of_flax_are_those_that_it_sows():
    layer = nn.MultiHeadDotProductAttention(4, normalize_qk=True)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 16)), jnp.float32)
    mask = nn.make_causal_mask(jnp.ones((2, 5)))
    variables = layer.init(KEY, x)
    with jax.numpy_rank_promotion("allow"):  # within Flax
        _, sown = layer.apply(variables, x, mask=mask, sow_weights=True, mutable=["intermediates"])
        maps = explain.attention_maps(lambda: layer.apply(variables, x, mask=mask))
    (weights,) = maps.values()
    np.testing.assert_allclose(weights, sown["intermediates"]["attention_weights"][0], rtol=1e-6)


def test_attention_rollout_is_the_product_of_the_layers():
    rng = np.random.default_rng(0)
    maps = [rng.dirichlet(np.ones(3), (2, 4, 3)).astype(np.float32) for _ in range(2)]
    first, second = (0.5 * one.mean(1) + 0.5 * np.eye(3) for one in maps)
    found = explain.attention_rollout([jnp.asarray(one) for one in maps])
    np.testing.assert_allclose(found, second @ first, rtol=1e-5)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)
    with pytest.raises(jdl.Error, match="self-attention"):
        explain.attention_rollout([jnp.ones((1, 2, 3, 4))])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("stack/block_0/attention", "stack/block_1/attention"), True),
        (("image/block_0/attention", "text/block_0/attention"), False),
        (("tower_0/block_0/attention", "tower_1/block_1/attention"), False),
        (("block_0/cross",), False),
    ],
)
def test_a_rollout_is_of_one_stack_of_layers(names, expected):
    assert is_stack(dict.fromkeys(names, jnp.ones((1, 2, 3, 3)))) is expected
    assert not is_stack({names[0]: jnp.ones((1, 2, 3, 4))})
    assert not is_stack({names[0]: jnp.ones((1, 2, 3, 3))}, ["stack/block_0/recurrence/in/kernel"])


@pytest.mark.parametrize(
    ("tokens", "height", "width", "expected"),
    [(16, 8, 8, (4, 4, 0)), (17, 8, 8, (4, 4, 1)), (10, 4, 8, (2, 4, 2)), (7, 8, 8, None)],
)
def test_patches_are_found(tokens, height, width, expected):
    assert patch_grid(tokens, height, width) == expected


def test_pca_keeps_the_distances_of_points_on_a_plane():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(40, 2)) * [3, 1]
    codes = points @ np.linalg.qr(rng.normal(size=(5, 2)))[0].T + 7
    found, shares = pca(codes)
    distances = [np.linalg.norm(p[:, None] - p[None], axis=-1) for p in (points, found)]
    np.testing.assert_allclose(*distances, atol=1e-9)
    np.testing.assert_allclose(shares.sum(), 1)
    assert shares[0] > shares[1]


def test_probes_say_what_layers_know():
    """The first layer keeps the class of each row, and the second loses it."""

    class Loses(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(4, name="keeps")(x)
            return nn.Dense(2, kernel_init=nn.initializers.zeros, name="loses")(x)

    rng = np.random.default_rng(0)
    y = np.arange(120) % 2
    x = (rng.normal(size=(120, 3)) + 6 * y[:, None]).astype(np.float32)
    train, test = jdl.data.arrays((), x=x, y=y.astype(np.int32)).split(0.5, 0.5)
    objective = classify(Loses())
    loaders = train.shuffled(30, 0), test.batches(30)
    found = probe_layers(objective, objective.init(KEY, loaders[0][0]), *loaders)
    assert list(found) == ["input", "keeps", "loses"]
    assert found["input"] > 0.9
    assert found["keeps"] > 0.9
    assert found["loses"] < 0.7


@pytest.mark.slow
def test_the_loss_line_ends_in_the_losses_of_both_models(digits):
    run, variables = digits.run, digits.variables
    start = digits.objective.init(KEY, run.train[0])
    batches = [run.test[n] for n in range(len(run.test))]
    shares, losses = loss_line(digits.objective, start, variables, batches, points=5)
    assert shares.tolist() == [0, 0.25, 0.5, 0.75, 1]
    np.testing.assert_allclose(losses[-1], evaluate(digits)["test"]["loss"], rtol=1e-5)
    np.testing.assert_allclose(losses[0], np.log(10), rtol=0.3)
    middle = jax.tree.map(lambda a, b: (a + b) / 2, start, variables)
    means = [digits.objective.loss(middle, batch, KEY, False).loss for batch in batches]
    expected = sum(mean.total for mean in means) / sum(mean.count for mean in means)
    np.testing.assert_allclose(losses[2], expected, rtol=1e-5)
    assert barrier(np.asarray([0, 0.5, 1]), np.asarray([1.0, 3.0, 2.0])) == 1.5
    wider = classify(MLP(10, (33,))).init(KEY, run.train[0])
    with pytest.raises(jdl.Error, match="other shapes"):
        loss_line(digits.objective, start, wider, batches)


def test_the_first_weights_are_templates_or_filters(digits):
    name, filters = first_filters(Subject(digits, (0,)))
    kernel = digits.state.params["Dense_0"]["kernel"]
    assert name == "Dense_0"
    assert np.array_equal(filters[3].ravel(), kernel[:, 3])
    cnn = untrained(CNN(10, ((4, 1),), dense=()), digits)
    name, filters = first_filters(Subject(cnn, (0,)))
    assert np.array_equal(filters[2], cnn.state.params[name]["kernel"][..., 2])


def untrained(model, digits, wrap=lambda objective: objective):
    """A run of the same data with another model, before its first step."""
    learner = jdl.descent(wrap(classify(model)), optax.sgd(0.1))
    run = replace(digits.run, learner=learner)
    return TrainedRun(run, jax.jit(learner.init)(KEY, run.train[0]))


def test_rows_are_those_of_the_data_in_the_given_order(digits):
    subject = Subject(digits, (70, 3, 70))
    whole = np.concatenate([np.asarray(digits.run.test[n]["x"]) for n in range(2)])
    assert np.array_equal(subject.batch["x"], whole[[70, 3, 70]])
    assert subject.titles()[1].startswith("row 3: ")
    with pytest.raises(jdl.Error, match="no row 100 in the test data: rows are 0 to 99"):
        Subject(digits, (100,))
    with pytest.raises(jdl.Error, match="no evaluation data"):
        Subject(replace(digits, run=replace(digits.run, test=None)), (0,))


def test_rows_have_a_mask_as_batches_have(digits):
    """So that a loss that reads it as every batch has it can be explained."""
    subject = Subject(digits, (70, 3))
    for batch in (subject.batch, *subject.batches([1, 2])):
        assert batch["mask"].tolist() == [True, True]


NO_MLP = {"grad_cam", "feature_maps", "boundary", "attention"}


@pytest.mark.slow
def test_every_figure_is_drawn_or_said_not_to_apply(digits, tmp_path):
    found = explain_run(Subject(digits, (0, 5)), tmp_path / "made")
    assert [finding.figure for finding in found] == list(FIGURES)
    assert {finding.figure.name for finding in found if not finding.path} == NO_MLP
    index = (tmp_path / "made" / "index.md").read_text()
    for finding in found:
        assert finding.text in index
        if finding.path:
            assert finding.path.read_bytes()[:4] == b"\x89PNG"
            assert f"]({finding.path.name})" in index
    assert len(list((tmp_path / "made").iterdir())) == len(found) - len(NO_MLP) + 1
    assert not [finding.text for finding in found if "It failed" in finding.text]
    with pytest.raises(jdl.Error, match="no figure 'gradcam'; the figures are attributions"):
        explain_run(Subject(digits, (0,)), tmp_path, ["gradcam"])


@pytest.mark.parametrize(
    ("model", "wrap", "figures"),
    [
        (CNN(10, ((4, 1),), dense=()), None, ["grad_cam", "feature_maps"]),
        (ViT(10, 2, TransformerConfig(width=8, depth=1, heads=2)), "patches", ["attention"]),
        (Plain(10), "conv", ["grad_cam", "filters"]),
    ],
    ids=["cnn", "frozen_vit", "frozen_flax"],
)
def test_figures_of_other_models(digits, tmp_path, model, wrap, figures):
    def freeze(objective):
        return jdl.freeze(objective, wrap) if wrap else objective

    trained = untrained(model, digits, freeze)
    found = explain_run(Subject(trained, (0, 1)), tmp_path, figures)
    assert all(finding.path for finding in found), [finding.text for finding in found]


def test_a_model_that_is_no_flax_module_has_attributions_and_no_layers(digits, tmp_path):
    model = jdl.Model(
        lambda key, x: {"w": jax.random.normal(key, (64, 10))},
        lambda params, x: x.reshape(len(x), -1) @ params["w"],
    )
    names = ["attributions", "grad_cam", "filters", "probes", "attention"]
    found = explain_run(Subject(untrained(model, digits), (0,)), tmp_path, names)
    assert [finding.path is not None for finding in found] == [True] + [False] * 4
    assert not [finding.text for finding in found if "It failed" in finding.text]


@pytest.mark.slow
def test_labels_may_have_dollars(digits, tmp_path):
    labels = tuple(f"{n}$^$" for n in range(10))
    subject = Subject(replace(digits, run=replace(digits.run, labels=labels)), (0, 1))
    figures = [one.name for one in FIGURES if one.name not in NO_MLP]
    found = explain_run(subject, tmp_path, figures)
    assert all(finding.path for finding in found), [finding.text for finding in found]


def test_rows_of_a_figure_are_drawn_over_the_whole_split(digits):
    subject = Subject(digits, (0,))
    rows = subject.sample(20)
    assert rows == sorted(set(rows)) == subject.sample(20)
    assert max(rows) > 70
    assert subject.sample(500) == list(range(100))
    batches = subject.batches(subject.sample(70))
    assert [len(batch["x"]) for batch in batches] == [64, 6]


def test_a_logarithmic_axis_has_two_labels_or_more():
    from matplotlib.figure import Figure

    for low, high, least in ((0.3, 6.0, 3), (0.01, 2.0, 2)):
        figure = Figure()
        axes = figure.subplots()
        axes.plot([0, 1], [low, high])
        log_scale(axes)
        figure.draw_without_rendering()
        ticks = [*axes.yaxis.get_major_ticks(), *axes.yaxis.get_minor_ticks()]
        inside = [t for t in ticks if axes.get_ylim()[0] <= t.get_loc() <= axes.get_ylim()[1]]
        assert sum(bool(t.label1.get_text()) for t in inside) >= least


def test_the_loss_line_of_a_fine_tuned_run_begins_at_its_weights(digits):
    arrays = {
        f"params/{name}/{part}": np.full(value.shape, 0.5, np.float32)
        for name, parts in digits.state.params.items()
        for part, value in parts.items()
    }
    weights = Weights(lambda: (arrays, "sha", "hub:weights"))
    model = jdl.pretrained(MLP(10, (32,)), weights)
    learner = jdl.descent(classify(model), optax.sgd(0.1))
    first, start = beginning(replace(digits.run, learner=learner))
    assert first == "the pretrained weights (hub:weights)"
    assert all(np.all(leaf == 0.5) for leaf in jax.tree.leaves(start["params"]))

    def gone():
        raise jdl.Error("No such file.")

    model = jdl.pretrained(MLP(10, (32,)), Weights(gone))
    learner = jdl.descent(classify(model), optax.sgd(0.1))
    with pytest.raises(jdl.Error, match="cannot begin again as it did: No such file"):
        beginning(replace(digits.run, learner=learner))


def test_a_figure_that_fails_costs_no_other(digits, tmp_path, monkeypatch):
    subject = Subject(digits, (0,))
    monkeypatch.setattr("jdl.explain.mistakes.draw_reliability", lambda *_: 1 / 0)
    first, second = explain_run(subject, tmp_path, ["calibration", "boundary"])
    assert first.text == "It failed: ZeroDivisionError: division by zero"
    assert "two features" in second.text


@pytest.mark.slow
def test_rows_are_grouped_by_a_column_of_their_table(tmp_path):
    import polars

    rng = np.random.default_rng(0)
    n = 120
    frame = polars.DataFrame(
        {
            "kind": rng.choice(["plain", "rare"], n, p=[0.8, 0.2]),
            "size": rng.normal(size=n),
            "good": rng.choice(["no", "yes"], n),
        }
    )
    train, test = jdl.data.frame(frame, target="good", one_hot=True).split(0.5, 0.5)
    learner = jdl.descent(classify(MLP(2)), optax.sgd(0.1))
    run = jdl.Run(jdl.Config(name="t"), learner, train.shuffled(20, 0), test=test.batches(30))
    trained = TrainedRun(run, jax.jit(learner.init)(KEY, run.train[0]))
    right = metrics_by_row(trained)["accuracy"]
    kinds = np.asarray(frame["kind"])[test.ids]
    (found,) = explain_run(Subject(trained, (0,), by="kind"), tmp_path, ["groups"])
    means = {kind: right[kinds == kind].mean() for kind in ("plain", "rare")}
    assert all(f"kind {kind}: {mean:.4f}" in found.text for kind, mean in means.items())
    (found,) = explain_run(Subject(trained, (0,), by="size"), tmp_path, ["groups"])
    assert "by size" in found.text
    with pytest.raises(jdl.Error, match="no column 'sort'"):
        explain_run(Subject(trained, (0,), by="sort"), tmp_path / "none", ["groups"])
    assert not (tmp_path / "none").exists()
    (tmp_path / "file").touch()
    with pytest.raises(jdl.Error, match="file is a file: the figures need a folder"):
        explain_run(Subject(trained, (0,)), tmp_path / "file")
