"""Fine-tuning a BERT of MiniLM's size, in full and by LoRA: jdl beside transformers with PEFT.

    scripts/bench finetuning PYTHON [ROUNDS]

PYTHON is an interpreter with torch, transformers and peft. Both libraries begin with the same
weights and train on the same batch, by AdamW and with dropout. Each measurement is a process of its
own, and the libraries take turns. Printed: the medians over the rounds of a step in ms, of wall
clock and of processor time, and of the largest resident memory.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

WIDTH, DEPTH, HEADS, VOCABULARY, CLASSES = 384, 6, 12, 30_522, 4
ROWS, TOKENS, STEPS, RATE, RANK, ALPHA = 16, 64, 10, 2e-5, 8, 16
RNG = np.random.default_rng(0)
X = RNG.integers(1_000, VOCABULARY, (ROWS, TOKENS))
Y = RNG.integers(0, CLASSES, ROWS)
KINDS = ("full", "lora")


def of_jdl(folder: str, kind: str) -> Callable[[], object]:
    """A step of `jdl.descent`, compiled as `fit` does."""
    import jax
    import jax.numpy as jnp
    import optax

    import jdl
    from jdl.learners import jit_learner
    from jdl.objectives.pretrained_model import record_loaded

    objective = jdl.objectives.classify(jdl.weights.from_pretrained(folder))
    if kind == "lora":
        targets = "attention/(query|value)/kernel"
        objective = jdl.lora(objective, targets, RANK, ALPHA, train="head|pooler")
    batch = {"x": jnp.asarray(X, jnp.int32), "y": jnp.asarray(Y, jnp.int32)}
    learner = jit_learner(jdl.descent(objective, optax.adamw(RATE)))
    with record_loaded():  # the weights are arguments of `init`, not constants in its program
        jax.eval_shape(objective.init, jax.random.key(0), batch)
        state = learner.init(jax.random.key(0), batch)

    def step() -> None:
        nonlocal state
        state, metrics = learner.step(state, batch)
        jax.block_until_ready((state.params, metrics))

    return step


def of_peft(folder: str, kind: str) -> Callable[[], object]:
    """A step of transformers, with PEFT's adapters for LoRA, and PyTorch's fused AdamW."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder).train()
    if kind == "lora":
        saved = ["pooler", "classifier"]
        model = get_peft_model(
            model,
            LoraConfig(
                r=RANK, lora_alpha=ALPHA, target_modules=["query", "value"], modules_to_save=saved
            ),
        )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, RATE, fused=True)
    x, y = torch.from_numpy(X), torch.from_numpy(Y)

    def step() -> None:
        optimizer.zero_grad()
        model(input_ids=x, labels=y).loss.backward()
        optimizer.step()

    return step


def make_weights(folder: str) -> None:
    """Random weights of the model, as transformers saves them."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        num_labels=CLASSES,
    )
    BertForSequenceClassification(config).save_pretrained(folder)


def measure(library: str, folder: str, kind: str) -> dict[str, float]:
    """Milliseconds of a step, and MiB of memory, in this process."""
    step = {"jdl": of_jdl, "peft": of_peft}[library](folder, kind)
    for _ in range(2):
        step()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(STEPS):
        step()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"ms": 1000 * wall / STEPS, "CPU-ms": 1000 * cpu / STEPS, "MiB": memory}


def run(python: str, *arguments: str) -> str:
    """What this script prints in a process of its own."""
    command = [python, __file__, "in-process", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main(peer: str, rounds: int = 5) -> None:
    """Measures both libraries in turns, and prints the table."""
    with tempfile.TemporaryDirectory() as folder:
        run(peer, "weights", folder)
        pythons = {"jdl": sys.executable, "peft": peer}
        print(f"{'':18}{'ms':>8}{'CPU-ms':>8}{'MiB':>8}   medians of {rounds} rounds")
        for kind in KINDS:
            found: dict[str, list[dict[str, float]]] = {library: [] for library in pythons}
            for _ in range(rounds):
                for library, python in pythons.items():
                    found[library].append(json.loads(run(python, library, folder, kind)))
            medians = {
                library: {name: statistics.median(row[name] for row in rows) for name in rows[0]}
                for library, rows in found.items()
            }
            for library, row in medians.items():
                print(f"{kind:8}{library:10}" + "".join(f"{x:8.0f}" for x in row.values()))
            ratios = (medians["peft"][name] / medians["jdl"][name] for name in medians["jdl"])
            print(f"{kind:8}{'peft/jdl':10}" + "".join(f"{ratio:8.2f}" for ratio in ratios))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["in-process", "weights", folder]:
            make_weights(folder)
        case ["in-process", library, folder, kind]:
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
            print(json.dumps(measure(library, folder, kind)))
        case [peer, *rest] if Path(peer).exists():
            main(peer, *map(int, rest))
        case _:
            print(__doc__)
            sys.exit(2)
