"""Text generation: `jdl serve`'s engine beside transformers' generate, of GPT-2s of equal sizes.

Tokens a second for 1, 4 and 16 requests at once, greedy, on prompts of 32 tokens: each request
wants 64 new tokens, or from 8 to 64 of them ("ragged": a batch of transformers lasts as long as its
longest, and only the wanted tokens count). Both have random weights in float32, run in processes of
their own that take turns, and generate once before they are measured. Printed are medians of the
rounds: by the clock, and by processor time, in which other work on the machine hardly counts.
transformers runs in the Python that the variable TRANSFORMERS_PYTHON names, with one thread and
with one a core, and the better one counts: PyTorch's threads wait by spinning, which is many times
slower than one thread where others use the cores too.

    TRANSFORMERS_PYTHON=python scripts/bench generation 3  # rounds
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import optax

import jdl
from jdl.models.gpt import GPT
from jdl.models.transformer import TransformerConfig
from jdl.serve.engine import Engine, Options
from jdl.serve.models import load_model

SIZES = {"vocabulary": 8192, "width": 384, "depth": 6, "heads": 6, "length": 128}
AT_ONCE, PROMPT, NEW = (1, 4, 16), 32, 64
NEVER = frozenset([SIZES["vocabulary"]])  # no end token
CASES = [
    (count, ragged) for ragged in (False, True) for count in AT_ONCE if count > 1 or not ragged
]


def lengths(count: int, ragged: bool) -> list[int]:
    """The new tokens that each request wants."""
    return np.linspace(8, NEW, count).astype(int).tolist() if ragged else [NEW] * count


def exported(folder: Path) -> Path:
    """An exported GPT-2 of random weights."""
    c = TransformerConfig(
        SIZES["width"],
        SIZES["depth"],
        SIZES["heads"],
        max_length=SIZES["length"],
        rotary=False,
    )
    data = jdl.data.arrays(x=np.zeros((2, PROMPT), np.int32)).shuffled(2, 0)
    learner = jdl.descent(jdl.objectives.next_token(GPT(SIZES["vocabulary"], c)), optax.sgd(0.0))
    run = jdl.Run(jdl.Config(name="gpt", steps=1), learner, data)
    trained = jdl.fit(run, jdl.Options(root=folder / "runs", quiet=True)).folder
    return jdl.export.export(trained, folder / "gpt", run=run)


def ours(folder: str) -> list[tuple[float, float]]:
    """Tokens a second of each case, by the clock and by processor time."""
    model, rates = load_model(folder), []
    for count, ragged in CASES:
        engine = Engine(model, slots=count)
        engine.warm()
        engine.start()
        prompts = np.random.default_rng(0).integers(0, SIZES["vocabulary"], (count, PROMPT))
        wanted = lengths(count, ragged)
        for timed in (False, True):
            clock, processor = time.perf_counter(), time.process_time()
            ends = [threading.Event() for _ in wanted]
            for prompt, new, end in zip(prompts.tolist(), wanted, ends, strict=True):
                options = Options(new, 0.0, stop_tokens=NEVER)
                engine.submit(
                    prompt, options, time.monotonic() + 600, lambda p, end=end: p.last and end.set()
                )
            for end in ends:
                end.wait()
            if timed:
                seconds = time.perf_counter() - clock, time.process_time() - processor
                rates.append((sum(wanted) / seconds[0], sum(wanted) / seconds[1]))
        engine.close()
    return rates


def in_process(*command: str | Path) -> list[tuple[float, float]]:
    """What a process prints last, as JSON."""
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Prints a line for each case."""
    if sys.argv[1:2] == ["--ours"]:
        print(json.dumps(ours(sys.argv[2])))
        return
    rounds = int(sys.argv[1]) if sys.argv[1:] else 3
    theirs = [os.environ["TRANSFORMERS_PYTHON"], Path(__file__).with_name("bench_generation_hf.py")]
    plan = json.dumps(SIZES | {"prompt": PROMPT, "cases": [lengths(*case) for case in CASES]})
    found: dict[str, list[list[tuple[float, float]]]] = {"jdl": [], "transformers": []}
    with tempfile.TemporaryDirectory() as folder:
        model = exported(Path(folder))
        for _ in range(rounds):
            found["jdl"].append(in_process(sys.executable, __file__, "--ours", model))
            found["transformers"].append(in_process(*theirs, plan))
    print("requests           jdl  transformers  ratio   tokens/s; then of processor time")
    for n, (count, ragged) in enumerate(CASES):
        text = f"{count:2}{' ragged' if ragged else '':8}"
        for kind in range(2):
            a, b = (statistics.median(r[n][kind] for r in found[name]) for name in found)
            text += f"{a:12,.0f}{b:12,.0f}{a / b:9.2f}"
        print(text)


if __name__ == "__main__":
    main()
