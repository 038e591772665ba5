"""Accuracy of a small BERT, fine-tuned in full and by LoRA: jdl beside transformers with PEFT.

    scripts/bench finetuning_accuracy PYTHON [SEEDS]

PYTHON is an interpreter with torch, transformers and peft. Verses by their place of revelation
(`jdl data fetch quran`), as `quran_place` has them. jdl trains the BERT as a masked language model
of the training verses. For each seed transformers makes a head and PEFT the adapters: from these
files both libraries go on, with the same batches, AdamW, rates, weight decay, clipping and dropout.
Printed: the test accuracy of each seed, and the differences of the pairs. Without dropout nothing
is left to chance: then the two give the same but for rounding, which grows with the rate.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, DEPTH, HEADS, VOCABULARY, TOKENS, CLASSES = 128, 2, 4, 2_048, 32, 2
BATCH, PRETRAINING, STEPS, DROPOUT, DECAY, CLIP = 32, 600, 400, 0.1, 0.01, 1.0
RATES = {"full": 5e-4, "lora": 5e-3}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "PJRT_NPROC": "1"}  # of PyTorch, of jax
RANK, ALPHA, TRAINED = 8, 16, ["pooler", "classifier"]


def pretrain(folder: Path, seeds: int) -> None:
    """Writes the data, and a masked language model of the training verses, by jdl."""
    import jax

    import jdl

    train, _, test = jdl.data.labelled_text(
        *jdl.data.quran_places(), vocab_size=VOCABULARY, max_length=TOKENS - 1
    )
    first = train.tokenizer.eos_id  # in the place of [CLS]
    arrays: dict[str, Any] = {}
    for name, part in (("train", train), ("test", test)):
        x = np.pad(part.column("x"), ((0, 0), (1, 0)), constant_values=first)
        x = np.pad(x, ((0, 0), (0, TOKENS - x.shape[1])))
        arrays |= {f"{name}_x": x, f"{name}_length": part.column("length") + 1}
        arrays[f"{name}_y"] = part.column("y")
    draw, rows = np.random.default_rng(0), len(train)
    epochs = -(-STEPS * BATCH // rows)
    orders = [[draw.permutation(rows) for _ in range(epochs)] for _ in range(seeds)]
    arrays["order"] = np.reshape(orders, (seeds, -1))[:, : STEPS * BATCH].reshape(seeds, STEPS, -1)
    for kind, rate in RATES.items():
        schedule = jdl.optim.warmup_cosine(rate, STEPS)
        arrays[f"rates_{kind}"] = np.asarray([schedule(n) for n in range(STEPS)])
    np.savez(folder / "data.npz", **arrays)

    columns = {"x": arrays["train_x"], "length": arrays["train_length"]}
    batches = jdl.data.arrays(**columns).shuffled(BATCH, 0)
    model = jdl.weights.from_pretrained(folder / "random")
    rate = jdl.optim.warmup_cosine(2e-3, PRETRAINING)
    objective = jdl.objectives.masked_token(model, train.tokenizer)
    learner = jdl.descent(objective, jdl.optim.adamw(rate))
    state, step = learner.init(jax.random.key(0), batches[0]), jax.jit(learner.step)
    for n in range(PRETRAINING):
        state, metrics = step(state, batches[n])
    print(*(f"{name} {float(m.value()):.3f}" for name, m in metrics.items()))
    variables = learner.eval_variables(state)
    jdl.weights.save_pretrained(variables, folder / "masked", folder / "random")


def of_jdl(folder: Path, seeds: int, kind: str, dropout: float) -> np.ndarray:
    """The probabilities (seeds, rows, classes) of the test rows after jdl's fine-tuning."""
    import jax

    import jdl

    data = np.load(folder / "data.npz")

    def batch_of(part: str, rows: Any) -> dict[str, np.ndarray]:
        return {name: data[f"{part}_{name}"][rows] for name in ("x", "length", "y")}

    def objective_of(seed: int) -> Any:
        start = folder / f"start{seed}"
        model = jdl.weights.from_pretrained(start, dropout=dropout)
        objective = jdl.objectives.classify(model)
        if kind == "lora":
            objective = jdl.weights.load_adapters(objective, folder / f"lora{seed}", start)
        return objective

    optimizer = jdl.optim.adamw(jdl.optim.warmup_cosine(RATES[kind], STEPS), DECAY, CLIP)
    learners = [jdl.descent(objective_of(seed), optimizer) for seed in range(seeds)]
    step = jax.jit(learners[0].step)  # compiled once: it is the same for all weights
    predict, found = jax.jit(objective_of(0).predict), []
    for seed, learner in enumerate(learners):
        state = learner.init(jax.random.key(seed), batch_of("train", data["order"][seed, 0]))
        for rows in data["order"][seed]:
            state, _ = step(state, batch_of("train", rows))
        test = batch_of("test", slice(None))
        found.append(predict(learner.eval_variables(state), test)["probability"])
    return np.asarray(found)


def of_peft(folder: Path, seeds: int, kind: str, dropout: float) -> np.ndarray:
    """The same after that of transformers and PEFT, with the optimizer as its Trainer has it."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    data = {name: torch.from_numpy(array) for name, array in np.load(folder / "data.npz").items()}

    def inputs(part: str, rows: Any) -> dict[str, Any]:
        length = data[f"{part}_length"][rows]
        mask = (torch.arange(TOKENS)[None] < length[:, None]).long()
        return {"input_ids": data[f"{part}_x"][rows].long(), "attention_mask": mask}

    found = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        model: Any = AutoModelForSequenceClassification.from_pretrained(
            folder / f"start{seed}", hidden_dropout_prob=dropout
        )
        if kind == "lora":
            model = PeftModel.from_pretrained(model, folder / f"lora{seed}", is_trainable=True)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": DECAY},
            {"params": [p for p in trained if p.ndim == 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, RATES[kind], fused=True)
        model.train()
        for rows, rate in zip(data["order"][seed], data[f"rates_{kind}"].tolist(), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            labels = data["train_y"][rows].long()
            model(**inputs("train", rows), labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, CLIP)
            optimizer.step()
        with torch.inference_mode():
            logits = model.eval()(**inputs("test", slice(None))).logits
        found.append(logits.softmax(-1).numpy())
    return np.asarray(found)


SIDES = {"jdl": of_jdl, "peft": of_peft}


def make_random(folder: Path) -> None:
    """Random weights of a masked language model, as transformers saves them."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=TOKENS,
        attention_probs_dropout_prob=0.0,  # jdl has no dropout of attention weights
        num_labels=CLASSES,
    )
    BertForMaskedLM(config).save_pretrained(folder / "random")


def make_starts(folder: Path, seeds: int) -> None:
    """For each seed the pretrained model with a fresh head, and fresh adapters of PEFT."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import BertForSequenceClassification

    for seed in range(seeds):
        torch.manual_seed(seed)
        model: Any = BertForSequenceClassification.from_pretrained(folder / "masked")
        model.save_pretrained(folder / f"start{seed}")
        targets = ["query", "value"]
        config = LoraConfig(
            r=RANK, lora_alpha=ALPHA, target_modules=targets, modules_to_save=TRAINED
        )
        get_peft_model(model, config).save_pretrained(folder / f"lora{seed}")


def train(library: str, folder: Path, seeds: int) -> None:
    """Fine-tunes in each way: all seeds with dropout, the first one without it too."""
    for kind in RATES:
        for dropout, number in ((DROPOUT, seeds), (0.0, 1)):
            found = SIDES[library](folder, number, kind, dropout)
            np.save(folder / f"{library}_{kind}_{dropout}.npy", found)
            print(f"{library} {kind} {dropout}: {time.process_time():.0f} CPU-s", flush=True)


def report(folder: Path, seeds: int) -> None:
    """Prints accuracies and differences of the seeds, and the largest ones without dropout."""
    from scipy import stats

    y = np.load(folder / "data.npz")["test_y"]
    print(
        f"Test accuracy of {len(y):,} rows; the majority class {np.bincount(y).max() / len(y):.4f}"
    )
    for kind in RATES:
        both = {name: np.load(folder / f"{name}_{kind}_{DROPOUT}.npy") for name in SIDES}
        scores = {name: (found.argmax(-1) == y).mean(1) for name, found in both.items()}
        for name, score in scores.items():
            each = " ".join(f"{x:.4f}" for x in score)
            print(f"{kind} {name}: {score.mean():.4f}, sd {score.std(ddof=1):.4f} ({each})")
        pairs = scores["jdl"] - scores["peft"]
        margin = stats.t.ppf(0.975, seeds - 1) * stats.sem(pairs)
        print(f"{kind}, jdl less peft: {pairs.mean():+.4f} ± {margin:.4f} (95%, Student's t)")
        one, other = (np.load(folder / f"{name}_{kind}_0.0.npy")[0] for name in SIDES)
        alike = int((one.argmax(-1) == other.argmax(-1)).sum())
        most = np.abs(one - other).max()
        print(
            f"{kind} without dropout: {alike:,} answers alike, probabilities differ by {most:.1e}"
        )


def main(peer: str, seeds: int = 5) -> None:
    """Makes the files, trains on both sides and prints what comes out."""
    pythons = {"jdl": sys.executable, "peft": peer}

    def run(python: str, *arguments: Any) -> None:
        command = [python, __file__, "in-process", *map(str, arguments)]
        subprocess.run(command, check=True, env={**os.environ, **ONE_THREAD})

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(peer, "random", folder)
        run(sys.executable, "pretrain", folder, seeds)
        run(peer, "starts", folder, seeds)
        for library, python in pythons.items():
            run(python, library, folder, seeds)
        report(folder, seeds)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["in-process", "random", folder]:
            make_random(Path(folder))
        case ["in-process", "pretrain", folder, seeds]:
            pretrain(Path(folder), int(seeds))
        case ["in-process", "starts", folder, seeds]:
            make_starts(Path(folder), int(seeds))
        case ["in-process", library, folder, seeds]:
            train(library, Path(folder), int(seeds))
        case [peer, *rest] if Path(peer).exists():
            main(peer, *map(int, rest))
        case _:
            print(__doc__)
            sys.exit(2)
