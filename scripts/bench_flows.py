"""Simple densities beside `moons_flow`, and VAEs beside `digits_flow`.

scripts/bench flows [moons] [digits]: on the same splits. Widths and numbers of kernels are
chosen on the validation rows; nothing else is tuned.
"""

import math
import sys
from pathlib import Path

import jax
import numpy as np
import optax
from jax.scipy.special import gammaln
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

import jdl
from jdl.learners import jit_learner, with_data
from jdl.metrics import scalars
from jdl.models.autoencoder import VAE
from jdl.train.compile_cache import quiet_libraries, use_compilation_cache
from jdl.train.evaluate import evaluator
from jdl.train.loop import train

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import digits_flow
import moons_flow

NOISE = 0.1  # of the moons
VAE_STEPS = 1_000


def test_metrics(run: jdl.Run) -> dict[str, float]:
    """The metrics of the test rows after the training of a run, without a folder and figures."""
    learner = jit_learner(with_data(run.learner, run.train))
    state = learner.init(jax.random.key(run.config.seed), run.train[0])
    state = train(learner, run.train, state, run.config.steps)
    return scalars(evaluator(run.learner, run.test)(state))


def rows_of(loader: jdl.Loader) -> np.ndarray:
    """All rows x, in float64, without padding."""
    batches = [loader[i] for i in range(len(loader))]
    parts = [np.asarray(b["x"], np.float64)[np.asarray(b.get("mask", ...))] for b in batches]
    return np.concatenate(parts).reshape(-1, math.prod(batches[0]["x"].shape[1:]))


def moons() -> None:
    """The NLL of the test rows by simple densities, and by the one that they were drawn from."""
    run = moons_flow.run(moons_flow.Config(name="moons_flow"))
    train = rows_of(run.train.dataset.batches(1_000))
    valid, test = rows_of(run.valid), rows_of(run.test)
    mixtures = [GaussianMixture(k, random_state=0).fit(train) for k in (8, 16, 32)]
    kernels = [KernelDensity(bandwidth=h).fit(train) for h in (0.05, 0.07, 0.1, 0.14)]
    mixture = max(mixtures, key=lambda model: model.score(valid))
    kernel = max(kernels, key=lambda model: model.score(valid))
    print(f"mixture of {mixture.n_components} Gaussians  {-mixture.score(test):.3f} nats")
    print(f"kernels of width {kernel.bandwidth}  {-kernel.score(test) / len(test):.3f} nats")
    scale = run.test.transforms[-1]
    x = test * scale.std + scale.mean
    angle = np.linspace(0, np.pi, 2_000)
    cos, sin = np.cos(angle), np.sin(angle)
    arcs = np.concatenate([np.stack([cos, sin], 1), np.stack([1 - cos, 0.5 - sin], 1)])
    squares = np.stack([np.square(x - point).sum(1) for point in arcs])
    density = np.exp(-squares / (2 * NOISE**2)).mean(0) / (2 * np.pi * NOISE**2)
    print(f"the true density  {-(np.log(density) + np.log(scale.std).sum()).mean():.3f} nats")


def digits() -> None:
    """Bits per dimension of the test rows by VAEs: the bounds (ELBO) of two likelihoods."""

    def dequantize(key: jax.Array, row: dict) -> dict:
        noise = jax.random.uniform(key, row["x"].shape)
        return {**row, "x": (16 * row["x"] + noise) / 17}

    def binomial(logits: jax.Array, x: jax.Array) -> jax.Array:
        ways = gammaln(17.0) - gammaln(16 * x + 1) - gammaln(16 * (1 - x) + 1)
        return 16 * optax.sigmoid_binary_cross_entropy(logits, x) - ways

    binomials = jdl.objectives.Likelihood(binomial, jax.nn.sigmoid, (0.0, 1.0))
    gaussians = jdl.objectives.gaussian(0.1)
    for name, likelihood, transforms, levels in (
        ("Gaussian, dequantized", gaussians, (dequantize,), 17),
        ("binomial", binomials, (), 1),
    ):
        run = digits_flow.run(digits_flow.Config(name="digits_vae", steps=VAE_STEPS))
        objective = jdl.objectives.elbo(VAE((8, 8, 1), 16, hidden=(128,)), likelihood)
        optimizer = jdl.optim.adamw(jdl.optim.warmup_cosine(1e-3, VAE_STEPS))
        batches = run.train.dataset.map(*transforms).shuffled(128, 0)
        test = run.test.dataset.map(*transforms).batches(360)
        learner = jdl.ema(jdl.descent(objective, optimizer))
        elbo = test_metrics(jdl.Run(run.config, learner, batches, test=test))["elbo"]
        bits = math.log2(levels) - elbo / 64 / math.log(2)
        print(f"VAE, likelihood {name}  {bits:.3f} bits per dimension")


def main() -> None:
    """Measures the parts that the command line names, or all."""
    quiet_libraries()
    use_compilation_cache()
    parts = {"moons": moons, "digits": digits}
    for name in sys.argv[1:] or parts:
        print(name)
        parts[name]()


if __name__ == "__main__":
    main()
