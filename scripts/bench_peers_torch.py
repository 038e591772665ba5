"""Steps of `scripts/bench peers` in PyTorch, eager or by `torch.compile`; and its models.

A process of its own, which needs nothing but torch and numpy: scripts/bench_peers.py starts it.
"""

import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from bench_peers import (
    CLASSES,
    DECAY,
    DEPTH,
    ENVIRONMENTS,
    EPOCHS,
    HEADS,
    LATENT,
    LENGTH,
    MINIBATCHES,
    PATCH,
    RATE,
    ROLLOUT,
    VOCABULARY,
    WIDTH,
    Stepper,
    answer,
    batch_of,
)
from torch import Tensor
from torch.nn import (
    GELU,
    LSTM,
    BatchNorm2d,
    Conv2d,
    Embedding,
    Flatten,
    LayerNorm,
    LeakyReLU,
    Linear,
    MaxPool2d,
    Module,
    Parameter,
    PixelShuffle,
    ReLU,
    Sequential,
    Sigmoid,
    Tanh,
    Unflatten,
)
from torch.nn import functional as F

Loss = Callable[[], Tensor]


def mlp() -> Module:
    """The MLP 784-512-256-10."""
    return Sequential(Linear(784, 512), ReLU(), Linear(512, 256), ReLU(), Linear(256, CLASSES))


def cnn() -> Module:
    """The CNN of 32 and 64 channels, with a dense layer."""
    convolutions = []
    for inputs, outputs in ((1, 32), (32, 64)):
        convolutions += [Conv2d(inputs, outputs, 3, padding=1), ReLU(), MaxPool2d(2)]
    dense = [Flatten(), Linear(64 * 7 * 7, 128), ReLU(), Linear(128, CLASSES)]
    return Sequential(*convolutions, *dense)


class Last(Module):
    """An LSTM whose last output is classified."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = LSTM(28, 128, batch_first=True), Linear(128, CLASSES)

    def forward(self, x):
        """x (B, T, 28) to (B, CLASSES)."""
        return self.head(self.lstm(x)[0][:, -1])


@dataclass(frozen=True)
class Sizes:
    """The sizes of a transformer, by the names of jdl's `TransformerConfig`."""

    width: int = WIDTH
    depth: int = DEPTH
    heads: int = HEADS
    max_length: int = LENGTH


class Attention(Module):
    """Self-attention."""

    def __init__(self, width: int, heads: int, causal: bool):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.out = Linear(width, 3 * width), Linear(width, width)

    def forward(self, x):
        """x (B, T, width) to the same shape."""
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(out.transpose(1, 2).reshape(x.shape))


class Added(Sequential):
    """A residual connection."""

    def forward(self, x):
        """x and what its layers make of it."""
        return x + super().forward(x)


class Transformer(Module):
    """A GPT of a vocabulary, or else a ViT of patches of images with so many channels."""

    def __init__(self, c, vocabulary: int = 0, patch: int = 0, channels: int = 3):
        super().__init__()
        self.places = Parameter(0.02 * torch.randn(c.max_length, c.width))
        self.blocks = Sequential()
        for _ in range(c.depth):
            attention = Attention(c.width, c.heads, bool(vocabulary))
            hidden = Linear(c.width, 4 * c.width), GELU("tanh"), Linear(4 * c.width, c.width)
            self.blocks.append(Added(LayerNorm(c.width), attention))
            self.blocks.append(Added(LayerNorm(c.width), *hidden))
        self.blocks.append(LayerNorm(c.width))
        self.table = Embedding(vocabulary, c.width) if vocabulary else None
        if vocabulary:
            torch.nn.init.normal_(self.table.weight, std=0.02)
        else:
            self.patches = Conv2d(channels, c.width, patch, patch)
            self.head = Linear(c.width, CLASSES)

    def forward(self, x):
        """Tokens (B, T) to logits (B, T, vocabulary), or images (B, C, H, W) to (B, CLASSES)."""
        if self.table is not None:
            return F.linear(self.blocks(self.table(x) + self.places), self.table.weight)
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.blocks(x + self.places).mean(1))


def vit() -> Module:
    """The ViT of the images of 28 x 28."""
    return Transformer(Sizes(max_length=(28 // PATCH) ** 2), patch=PATCH, channels=1)


def encoder(widths: tuple[int, int], activation: Module, *dense: Module) -> list[Module]:
    """Convolutions of stride 2, and dense layers."""
    first, second = (
        Conv2d(inputs, outputs, 3, 2, 1) for inputs, outputs in ((1, widths[0]), widths)
    )
    return [first, activation, second, activation, Flatten(), *dense]


def vae() -> tuple[Module, Callable[[Tensor], Tensor]]:
    """The VAE, and its negative ELBO."""
    dense = Linear(64 * 7 * 7, 256), ReLU(), Linear(256, 2 * LATENT)
    up = Linear(LATENT, 256), ReLU(), Linear(256, 64 * 7 * 7), ReLU(), Unflatten(1, (64, 7, 7))
    up += Conv2d(64, 4 * 32, 3, padding=1), PixelShuffle(2), ReLU()
    up += Conv2d(32, 4, 3, padding=1), PixelShuffle(2)
    both = Sequential(Sequential(*encoder((32, 64), ReLU(), *dense)), Sequential(*up))

    def loss(x: Tensor) -> Tensor:
        mean, log_variance = both[0](x).chunk(2, -1)
        std = torch.exp(log_variance / 2)
        out = both[1](mean + std * torch.randn_like(std))
        reconstruction = F.binary_cross_entropy_with_logits(out, x, reduction="sum")
        return (reconstruction + 0.5 * (std**2 + mean**2 - 1 - log_variance).sum()) / len(x)

    return both, loss


def gan() -> tuple[Module, Callable[[Tensor], Tensor]]:
    """The DCGAN, and the losses of both players at the same parameters, each for its own."""
    up = [Linear(LATENT, 128 * 7 * 7, bias=False), Unflatten(1, (128, 7, 7)), BatchNorm2d(128)]
    up += [ReLU(), Conv2d(128, 4 * 64, 3, padding=1, bias=False), PixelShuffle(2), BatchNorm2d(64)]
    up += [ReLU(), Conv2d(64, 4, 3, padding=1), PixelShuffle(2), Sigmoid()]
    down = encoder((64, 128), LeakyReLU(0.2), Linear(128 * 7 * 7, 1))
    both = Sequential(Sequential(*up), Sequential(*down))
    generator, discriminator = both

    def loss(x: Tensor) -> Tensor:
        fake = generator(torch.randn(len(x), LATENT))
        of_discriminator = F.softplus(-discriminator(2 * x - 1)) + F.softplus(
            discriminator(2 * fake.detach() - 1)
        )
        weights = {name: p.detach() for name, p in discriminator.named_parameters()}
        judged = torch.func.functional_call(discriminator, weights, 2 * fake - 1)
        return (of_discriminator + F.softplus(-judged)).mean()

    return both, loss


def classifier(model: Module, y: Tensor) -> Callable[[Tensor], Tensor]:
    """The cross-entropy of a model's outputs, of a row or of each of its steps."""
    return lambda x: F.cross_entropy(model(x).flatten(0, -2), y.flatten())


def descent(row: str, compiled: bool) -> Stepper:
    """Forward, backward and the fused AdamW."""
    x, y = (np.ascontiguousarray(column) for column in batch_of(row))
    x, y = torch.from_numpy(x), torch.from_numpy(y.astype(np.int64))
    x = x.permute(0, 3, 1, 2) if x.ndim == 4 else x
    if row in ("vae", "gan"):
        model, loss = {"vae": vae, "gan": gan}[row]()
    else:
        gpt = partial(Transformer, Sizes(), VOCABULARY)
        model = {"mlp": mlp, "cnn": cnn, "lstm": Last, "gpt": gpt, "vit": vit}[row]()
        loss = classifier(model, y)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=DECAY, fused=True)
    loss = torch.compile(loss) if compiled else loss

    def step() -> None:
        optimizer.zero_grad()
        loss(x).backward()
        optimizer.step()

    return step, sum(p.numel() for p in model.parameters())


class CartPole:
    """CartPole-v1, some in parallel in NumPy; those that end begin anew."""

    def __init__(self, count: int):
        self.rng = np.random.default_rng(0)
        self.state = self.rng.uniform(-0.05, 0.05, (count, 4)).astype(np.float32)
        self.age = np.zeros(count, int)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What follows, before any begins anew; which ended by a fall; which ended at all."""
        _, velocity, angle, spin = columns = self.state.T
        sin, cos = np.sin(angle), np.cos(angle)
        push = (np.where(action == 1, 10.0, -10.0) + 0.05 * spin**2 * sin) / 1.1
        turn = (9.8 * sin - cos * push) / (0.5 * (4 / 3 - 0.1 * cos**2 / 1.1))
        rates = np.stack([velocity, push - 0.05 * turn * cos / 1.1, spin, turn])
        after = (columns + 0.02 * rates).T.astype(np.float32)
        fallen = (np.abs(after[:, 0]) > 2.4) | (np.abs(after[:, 2]) > np.pi * 12 / 180)
        self.age += 1
        done = fallen | (self.age == 500)
        fresh = self.rng.uniform(-0.05, 0.05, after.shape).astype(np.float32)
        self.state, self.age = np.where(done[:, None], fresh, after), np.where(done, 0, self.age)
        return after, fallen, done


class PPO:
    """PPO of CartPole, as CleanRL's: a rollout, GAE, and its epochs of minibatches."""

    def __init__(self):
        self.actor, self.critic = (
            Sequential(Linear(4, 64), Tanh(), Linear(64, 64), Tanh(), Linear(64, outputs))
            for outputs in (2, 1)
        )
        self.parameters = [*self.actor.parameters(), *self.critic.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, 2.5e-4, eps=1e-5, fused=True)
        self.environment = CartPole(ENVIRONMENTS)

    def step(self) -> None:
        """A training step: ROLLOUT steps in each environment, and all updates."""
        with torch.no_grad():
            rows = self.rows(*self.rollout())
        size = ENVIRONMENTS * ROLLOUT
        for _ in range(EPOCHS):
            for indices in torch.randperm(size).split(size // MINIBATCHES):
                self.optimizer.zero_grad()
                self.loss(*(column[indices] for column in rows)).backward()
                torch.nn.utils.clip_grad_norm_(self.parameters, 0.5)
                self.optimizer.step()

    def rollout(self) -> list[Tensor]:
        """Observations, actions, next observations, falls and ends: (T, B, ...)."""
        steps = []
        for _ in range(ROLLOUT):
            obs = self.environment.state
            logits = self.actor(torch.from_numpy(obs))
            action = torch.multinomial(logits.softmax(-1), 1)[:, 0].numpy()
            steps.append((obs, action, *self.environment.step(action)))
        return [torch.from_numpy(np.stack(column)) for column in zip(*steps, strict=True)]

    def rows(self, obs, action, next_obs, fallen, done) -> list[Tensor]:
        """The rows of the updates: with log probabilities, advantages, values and targets."""
        value, next_value = self.critic(obs)[..., 0], self.critic(next_obs)[..., 0]
        error = 1 + 0.99 * next_value * ~fallen - value
        advantage, following = torch.empty_like(value), torch.zeros(ENVIRONMENTS)
        for t in reversed(range(ROLLOUT)):
            advantage[t] = following = error[t] + 0.99 * 0.95 * ~done[t] * following
        log_prob = self.actor(obs).log_softmax(-1).gather(-1, action[..., None])[..., 0]
        columns = (obs, action, log_prob, advantage, value, advantage + value)
        return [column.flatten(0, 1) for column in columns]

    def loss(self, obs, action, log_prob, advantage, old_value, target) -> Tensor:
        """The clipped surrogate objective, the clipped error of the values, and the entropy."""
        log_probs, value = self.actor(obs).log_softmax(-1), self.critic(obs)[:, 0]
        ratio = (log_probs.gather(-1, action[:, None])[:, 0] - log_prob).exp()
        advantage = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
        policy_loss = -torch.minimum(advantage * ratio, advantage * ratio.clip(0.8, 1.2)).mean()
        near = old_value + (value - old_value).clip(-0.2, 0.2)
        value_loss = 0.5 * torch.maximum((value - target) ** 2, (near - target) ** 2).mean()
        entropy = -(log_probs.exp() * log_probs).sum(-1).mean()
        return policy_loss + 0.5 * value_loss - 0.01 * entropy


def build(row: str, compiled: bool) -> tuple[Stepper, str]:
    """The step, and what it is of."""
    if row == "ppo":
        learner = PPO()
        stepper = learner.step, sum(p.numel() for p in learner.parameters)
    else:
        stepper = descent(row, compiled)
    return stepper, f"torch {torch.__version__}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    peer, row = sys.argv[1:3]
    if sys.argv[3:] != ["fresh"]:  # by its path: jdl need not be installed here
        malloc = Path(__file__).parents[1] / "jdl/train/malloc.py"
        runpy.run_path(str(malloc))["keep_memory"]()
    answer("torch", partial(build, row, peer == "torch compiled"))
