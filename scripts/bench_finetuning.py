"""Fine-tuning a BERT of MiniLM's size, in full and by LoRA: jdl beside transformers with PEFT.

    scripts/bench finetuning PYTHON [ROUNDS]
    scripts/bench finetuning sizes

PYTHON is an interpreter with torch, transformers and peft. Both libraries begin with the same
weights and train on the same batch, by AdamW and with dropout. Each measurement is a process of its
own, and the libraries take turns. Printed: the medians over the rounds of a step in ms, of wall
clock and of processor time, and of the largest resident memory. With `sizes` nothing is trained:
printed are the MiB of jdl's state under AdamW, in full, by LoRA, and by LoRA with the weights below
the adapters in 8 and 4 bits.
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


def sizes() -> None:
    """Prints the MiB of what is trained, of the optimizer's state and of all else in the state."""
    import jax
    import optax

    import jdl
    from jdl.models.bert import BERT
    from jdl.models.transformer import TransformerConfig

    form = {"max_length": 512, "rotary": False, "pre_norm": False}
    model = BERT(
        VOCABULARY, TransformerConfig(WIDTH, DEPTH, HEADS, **form), outputs=CLASSES, token_types=2
    )
    full = jdl.objectives.classify(model)
    lora = jdl.lora(full, "attention/(query|value)/kernel", RANK, ALPHA, train="head")
    below = {n: jdl.quantize(lora, "^lora/base/.*(kernel|table)", bits=n) for n in (8, 4)}
    kinds = {"full": full, "lora": lora} | {f"lora, {n} bits": o for n, o in below.items()}
    print(f"{'MiB':14}{'trained':>10}{'optimizer':>10}{'kept':>10}")
    for kind, objective in kinds.items():
        init = jdl.descent(objective, optax.adamw(RATE)).init
        state = jax.eval_shape(init, jax.random.key(0), {"x": X, "y": Y})
        parts = state.params, state.opt_state, (state.model_state, state.extra)
        mib = (
            sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(part)) / 2**20 for part in parts
        )
        print(f"{kind:14}" + "".join(f"{x:10.1f}" for x in mib))


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
        case ["sizes"]:
            sizes()
        case [peer, *rest] if Path(peer).exists():
            main(peer, *map(int, rest))
        case _:
            print(__doc__)
            sys.exit(2)
