"""Word vectors: a table of embeddings of words, and one of the words beside them."""

import flax.linen as nn
import jax


class WordVectors(nn.Module):
    """The two tables of word vectors by skip-gram (word2vec; Mikolov et al., 2013).

    For `jdl.objectives.skip_gram`. Words x (B, T) give their vectors (B, T, width), of the
    parameter `vectors` (vocab_size, width); `context` gives those of words as neighbours of others.
    """

    vocab_size: int
    width: int = 100

    def setup(self) -> None:
        """Both tables: of words at random, of contexts zero, as in word2vec."""
        shape = (self.vocab_size, self.width)
        self.vectors = self.param("vectors", _uniform, shape)
        self.contexts = self.param("contexts", nn.initializers.zeros, shape)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Words x (B, T) to their vectors (B, T, width)."""
        return self.vectors[x]

    def context(self, x: jax.Array) -> jax.Array:
        """Words x (B, T) to their vectors as contexts, (B, T, width)."""
        return self.contexts[x]


def _uniform(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Numbers from -1/2 to 1/2, divided by the width."""
    return jax.random.uniform(key, shape, minval=-0.5, maxval=0.5) / shape[1]
