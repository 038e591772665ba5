"""A bag of words against a loop over the words.

Seen to fail: without the mask, with dropout of single numbers of the embeddings.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdl.layers import ROW_DROPOUT
from jdl.models.embedding_bag import EmbeddingBag


def test_a_text_is_the_weighted_mean_of_its_real_words_in_any_order():
    rng = np.random.default_rng(0)
    params = {
        "table": jnp.asarray(rng.normal(size=(7, 3)), jnp.float32),
        "log_weights": jnp.asarray(rng.normal(size=7), jnp.float32),
    }
    x, length = np.int32([[1, 5, 5, 2], [3, 6, 0, 0], [4, 4, 4, 4]]), np.int32([4, 2, 0])
    mask = np.arange(4) < length[:, None]
    out = EmbeddingBag(7, 3).apply({"params": params}, x, False, mask)
    for n in range(3):
        words = x[n, : length[n]]
        weights = np.exp(np.asarray(params["log_weights"]))[words]
        total = (weights[:, None] * np.asarray(params["table"])[words]).sum(0)
        np.testing.assert_allclose(out[n], total / max(weights.sum(), 1e-6), rtol=1e-5)
    turned = EmbeddingBag(7, 3).apply({"params": params}, x[:, ::-1], False, mask[:, ::-1])
    np.testing.assert_allclose(turned, out, rtol=1e-5)


@pytest.mark.slow
def test_dropout_leaves_out_whole_words():
    model, x = EmbeddingBag(64, 64, dropout=0.5), np.arange(64, dtype=np.int32)[None]
    params = {"table": 64 * jnp.eye(64), "log_weights": jnp.zeros(64)}
    out = model.apply({"params": params}, x, True, rngs={ROW_DROPOUT: jax.random.key(0)})[0]
    kept = np.asarray(out) > 0
    assert 20 < kept.sum() < 44
    np.testing.assert_allclose(out, kept * 64 / kept.sum(), rtol=1e-5)
