"""Models and metrics of forecasting: against loops, NumPy and scikit-learn; pictures and rows.

Seen to fail: the taps of `CausalConv` in reverse; a dilation that doubles twice; a TCN that keeps
the first of two steps, or reads one step less; dropout of single steps; N-BEATS with added
backcasts, or without the first part; a patch of half its length; a median of another level; widths
without the scale; masked rows counted; a naive error of all splits; quantile columns in the unit of
y.
"""

from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, mean_pinball_loss

import jdl
from jdl.data import forecast_windows
from jdl.figures.forecasts import draw_forecasts
from jdl.inspect.predict import predict, to_csv
from jdl.layers import CausalConv
from jdl.models.mlp import MLP
from jdl.models.nbeats import NBEATS
from jdl.models.patch_transformer import PatchTransformer
from jdl.models.tcn import TCN
from jdl.models.transformer import TransformerConfig
from jdl.objectives import forecast, forecast_quantiles

LEVELS = (0.1, 0.25, 0.5, 0.9)
X = jax.random.normal(jax.random.key(0), (3, 20, 2))


def started(model, x=X):
    """Fresh variables, and the compiled model."""
    return jax.jit(model.init)(jax.random.key(0), x), jax.jit(model.apply)


@pytest.mark.parametrize(("kernel", "dilation"), [(2, 1), (3, 4)])
def test_a_causal_convolution_is_that_of_xla(kernel, dilation):
    conv = CausalConv(5, kernel, dilation)
    variables, run = started(conv)
    taps = variables["params"]["taps"]
    expected = jax.lax.conv_general_dilated(
        X,
        taps["kernel"].reshape(kernel, 2, 5),
        (1,),
        [((kernel - 1) * dilation, 0)],
        rhs_dilation=(dilation,),
        dimension_numbers=("NWC", "WIO", "NWC"),
    )
    np.testing.assert_allclose(run(variables, X), expected, atol=1e-5)


def test_an_output_of_a_tcn_depends_on_its_receptive_field():
    """To the bit on no step before and none after it; and on its first and its last step."""
    model = TCN(4, (3, 3), return_sequences=True)
    variables, run = started(model)
    before = run(variables, X)
    assert model.receptive_field == 13
    for step, changed in ((0, range(13)), (5, range(5, 18)), (19, [19])):
        after = run(variables, X.at[:, step].add(100.0))
        differ = np.asarray((before != after).any((0, 2)))
        assert differ[[changed[0], changed[-1]]].all()
        assert set(np.flatnonzero(differ)) <= set(changed)


@pytest.mark.parametrize("steps", [5, 20])
def test_the_last_output_of_a_tcn_alone_is_that_of_all(steps):
    """Whatever is left out of its computation."""
    x = X[:, :steps]
    variables, every = started(TCN(4, (3, 3, 2), 2, return_sequences=True), x)
    last, expected = jax.jit(TCN(4, (3, 3, 2), 2).apply), np.asarray(every(variables, x))
    np.testing.assert_allclose(last(variables, x), expected[:, -1], atol=1e-5)
    lengths = np.asarray([steps, 2, 4])
    found = last(variables, x, mask=np.arange(steps)[None] < lengths[:, None])
    np.testing.assert_allclose(found, expected[np.arange(3), lengths - 1], atol=1e-5)


def test_dropout_of_a_tcn_is_of_whole_channels():
    """All outputs of a row that follow from ones are the same steps long: no step has its own."""
    model, ones = TCN(4, (64,), 1, dropout=0.5, return_sequences=True), jnp.ones((2, 5, 3))
    variables, _ = started(model, ones)
    run = jax.jit(lambda key: model.apply(variables, ones, True, rngs={"dropout": key}))
    out = np.asarray(run(jax.random.key(1)))
    np.testing.assert_array_equal(out, np.broadcast_to(out[:, :1], out.shape))
    assert (out[0] != out[1]).all()
    assert (out != np.asarray(run(jax.random.key(2)))).all()


def test_n_beats_subtracts_backcasts_and_adds_forecasts():
    model = NBEATS(4, blocks=3, layers=2, width=8, basis=3)
    variables, run = started(model)
    params = jax.tree.map(np.asarray, variables["params"])
    past, total = np.asarray(X).reshape(3, -1), 0.0

    def dense(name, values):
        return values @ params[name]["kernel"] + params[name].get("bias", 0.0)

    for n in range(3):
        hidden = past
        for layer in range(2):
            hidden = np.maximum(dense(f"block_{n}_{layer}", hidden), 0)
        total += dense(f"forecast_{n}_basis", dense(f"forecast_{n}_coefficients", hidden))
        if n < 2:
            past = past - dense(f"backcast_{n}_basis", dense(f"backcast_{n}_coefficients", hidden))
    np.testing.assert_allclose(run(variables, X), total, rtol=1e-4, atol=1e-5)


def test_patches_are_of_following_steps_and_all_columns():
    """A patch is a token: the first layer gives the same for the same four steps, anywhere."""
    model = PatchTransformer(3, 4, TransformerConfig(8, 1, 2, rotary=False))
    x = jnp.concatenate([X[:, :8], X[:, 4:8]], 1)
    variables, _ = started(model, x)
    run = jax.jit(partial(model.apply, capture_intermediates=lambda m, _: m.name == "patches"))
    tokens = np.asarray(run(variables, x)[1]["intermediates"]["patches"]["__call__"][-1])
    kernel = np.asarray(variables["params"]["patches"]["kernel"])
    np.testing.assert_allclose(tokens[:, 1], X[:, 4:8].reshape(3, -1) @ kernel, atol=1e-5)
    np.testing.assert_array_equal(tokens[:, 1], tokens[:, 2])
    with pytest.raises(jdl.Error, match="12 steps cannot be cut into patches of 5"):
        PatchTransformer(3, 5).init(jax.random.key(0), x)


def evaluated(objective, batch):
    variables = jax.jit(objective.init)(jax.random.key(3), batch)
    output = jax.jit(objective.loss, static_argnums=3)(variables, batch, jax.random.key(1), False)
    numbers = {name: float(metric.value()) for name, metric in output.metrics.items()}
    return variables, numbers, float(output.loss.value())


@pytest.mark.parametrize("shaped", [False, True])
def test_metrics_of_quantile_forecasts_are_those_of_scikit_learn(shaped):
    """Of the two real rows, in the unit of the series; for outputs in one axis and in two."""
    model = MLP(3 * len(LEVELS))
    if shaped:
        model = jdl.adapt_model(model, outputs=lambda out: out.reshape(-1, 3, len(LEVELS)))
    y = jax.random.normal(jax.random.key(5), (3, 3))
    batch = {"x": X, "y": y, "naive": y + 2.0, "mask": jnp.asarray([True, False, True])}
    objective = forecast_quantiles(model, LEVELS, scale=10.0, naive_error=4.0)
    variables, numbers, _ = evaluated(objective, batch)
    made = objective.predict(variables, batch)
    assert set(made) == {"q0.1", "q0.25", "q0.5", "q0.9", "value"}
    np.testing.assert_array_equal(made["value"], made["q0.5"])
    rows, y = np.asarray([0, 2]), np.asarray(y)[[0, 2]]
    q = [np.asarray(made[f"q{level}"])[rows] for level in LEVELS]
    assert all((low <= high).all() for low, high in pairwise(q))
    mae = 10 * mean_absolute_error(y, q[2])
    pinball = [mean_pinball_loss(y, part, alpha=k) for k, part in zip(LEVELS, q, strict=True)]
    expected = {
        "pinball": 10 * np.mean(pinball),
        "coverage": ((q[0] <= y) & (y <= q[3])).mean(),
        "width": 10 * (q[3] - q[0]).mean(),
        "mae": mae,
        "mase": mae / 4,
        "naive_mae": 20.0,
        "naive_mase": 5.0,
    }
    assert 0 < expected["coverage"] < 1
    assert numbers.pop("crossing") == 1
    assert numbers == pytest.approx(expected, rel=1e-5)


def test_the_scaled_error_is_beside_that_of_point_forecasts():
    batch = {"x": X, "y": X[:, :3, 0], "naive": X[:, 3:6, 0]}
    _, numbers, loss = evaluated(forecast(MLP(3), 10.0, naive_error=4.0), batch)
    assert numbers["mase"] == pytest.approx(10 * loss / 4, rel=1e-5)
    assert numbers["naive_mase"] == pytest.approx(numbers["naive_mae"] / 4, rel=1e-5)
    assert "mase" not in evaluated(forecast(MLP(3)), batch)[1]


@pytest.mark.parametrize("season", [1, 3, 7])
def test_the_naive_error_is_that_of_the_training_split(season):
    t = np.arange(100.0)
    series = t * np.sin(t)
    train, _, test = forecast_windows(series[:, None], 6, 5, season, train=0.6)
    errors = [abs(series[n] - series[n - season]) for n in range(season, 60)]
    assert train.naive_error == test.naive_error == pytest.approx(np.mean(errors))


REFUSED = {
    "levels": (lambda: forecast_quantiles(MLP(9), (0.9, 0.1)), "must ascend"),
    "exact": (lambda: forecast(MLP(3), naive_error=0.0), "repeat exactly"),
    "nan": (lambda: forecast_quantiles(MLP(9), naive_error=float("nan")), "above 0"),
    "outputs": (
        lambda: forecast_quantiles(MLP(10)).check({"x": X, "y": X[:, :3, 0]}, {}),
        r"3 levels, but the model gives \(3, 10\)",
    ),
    "horizon": (
        lambda: forecast_quantiles(MLP(9)).check({"x": X, "y": X[:, :4, 0]}, {}),
        r"targets y must be \(3, 3\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_what_is_wrong(case):
    make, message = REFUSED[case]
    with pytest.raises(jdl.Error, match=message):
        make()


@pytest.mark.slow
def test_forecasts_are_drawn_and_written_in_the_unit_of_the_series(tmp_path):
    t = np.arange(200.0)
    table = np.stack([t, 100 + 50 * np.sin(t / 4)], 1)
    train, _, test = forecast_windows(table, 8, 5, 3, target=1)
    objective = forecast_quantiles(MLP(15), (0.1, 0.5, 0.9), train.std)
    run = jdl.Run(
        jdl.Config(name="series", steps=1),
        jdl.descent(objective, jdl.optim.adamw(1e-3)),
        train.shuffled(8, 0),
        test=test.batches(8),
    )
    variables = jax.jit(objective.init)(jax.random.key(0), run.train[0])
    x = test.take(np.arange(2))["x"]
    made = jax.jit(objective.predict)(variables, {"x": x})
    np.savez(tmp_path / "windows.npz", x=x)
    predict_all = partial(jdl.objectives.predict_all, objective, variables)
    trained = SimpleNamespace(
        run=run, objective=objective, variables=variables, predict_all=predict_all
    )
    rows = predict(trained, [tmp_path / "windows.npz"], out=tmp_path / "out")
    assert to_csv(rows).splitlines()[0] == "input,step,q0.1,q0.5,q0.9"
    assert [(row["input"][-2:], row["step"]) for row in rows] == [
        (f"{n}]", k) for n in range(2) for k in range(1, 6)
    ]
    mean, std = table[:140, 1].mean(), table[:140, 1].std()
    for name in ("q0.1", "q0.5", "q0.9"):
        expected = np.asarray(made[name]).ravel() * std + mean
        np.testing.assert_allclose([row[name] for row in rows], expected, rtol=1e-4)
    names = [path.name for path in sorted((tmp_path / "out").iterdir())]
    assert names == ["windows-0.forecast.png", "windows-1.forecast.png"]
    assert [path.name for path in draw_forecasts(run, variables, tmp_path)] == ["forecasts.png"]
    assert (tmp_path / "figures" / "forecasts.png").stat().st_size > 10_000
    others = jdl.Run(run.config, run.learner, run.train, test=jdl.data.arrays(x=x).batches(2))
    assert draw_forecasts(others, variables, tmp_path / "none") == []
