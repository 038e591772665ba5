"""The causal transformer: the next token from those before it."""

import flax.linen as nn
import jax

from jdl.models.transformer import Blocks, Stack, Tokens, steps_mask


class GPT(nn.Module):
    """Tokens (B, T) to the logits (B, T, vocabulary) of the token after each (Radford et al., 2018).

    Logits at t depend on tokens up to t alone. With `decode`, the tokens go on where those in the collection "cache"
    end.
    """

    vocabulary: int
    blocks: Blocks = Blocks()

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None, decode: bool = False
    ) -> jax.Array:
        """Tokens (B, T), and a mask (B,) or (B, T), to logits (B, T, vocabulary)."""
        tokens = Tokens(self.vocabulary, self.blocks, name="tokens")
        stack = Stack(self.blocks, causal=True, name="stack")
        return tokens.logits(
            stack(tokens(x, train, decode), steps_mask(mask), train=train, decode=decode)
        )

    @property
    def max_length(self) -> int:
        """How many tokens the cache holds."""
        return self.blocks.length
