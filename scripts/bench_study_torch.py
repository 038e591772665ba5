"""Runs of digits_mlp in PyTorch, for `scripts/bench study`: a loop over learning rates and seeds.

A process of its own, as PyTorch is no dependency: python bench_study_torch.py DIGITS.npz RUNS STEPS
RATE ...
"""

import sys
from itertools import pairwise

import numpy as np
import torch
from torch import nn

BATCH, EVALUATIONS = 128, 20


def train(data: dict, rate: float, seed: int, steps: int) -> float:
    """Trains one run; its last validation accuracy."""
    torch.manual_seed(seed)
    sizes = (64, 256, 128)
    layers = [nn.Flatten()]
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(0.2)]
    model = nn.Sequential(*layers, nn.Linear(sizes[-1], 10))
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    x, y = data["train_x"], data["train_y"]
    order, place, accuracy = torch.randperm(len(x)), 0, 0.0
    for step in range(1, steps + 1):
        rows = order[place : place + BATCH]
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        schedule.step()
        place += BATCH
        if place >= len(x):
            order, place = torch.randperm(len(x)), 0
        if step % max(1, steps // EVALUATIONS) == 0:
            model.eval()
            with torch.inference_mode():
                found = model(data["valid_x"]).argmax(-1) == data["valid_y"]
            accuracy = found.float().mean().item()
            model.train()
    return accuracy


def main() -> None:
    """Trains all runs one after another."""
    path, runs, steps, *rates = sys.argv[1:]
    torch.set_num_threads(1)
    with np.load(path) as arrays:
        data = {name: torch.from_numpy(arrays[name]) for name in arrays}
    data |= {name: column.long() for name, column in data.items() if name.endswith("_y")}
    for rate in rates:
        for seed in range(int(runs) // len(rates)):
            accuracy = train(data, float(rate), seed, int(steps))
    print(f"{accuracy:.4f}")


if __name__ == "__main__":
    main()
