"""A training step of jdl beside the same step by hand in JAX, in PyTorch and in Keras.

Models of equal shapes and numbers of parameters (within 1%: some have a bias of the keys, which
changes nothing), of each library's own layers, on equal batches and by the same AdamW. jdl's step
alone computes metrics and the norms of gradients, updates and parameters besides the loss.

    scripts/bench peers [ROW ...] [--python PYTHON] [--compile] [--fresh] [--cores N] [--rounds 9]

PYTHON is an interpreter that has torch; without it, this one. ROW is one of mlp, cnn, lstm, gpt,
vit, vae, gan (a step of both players) and ppo (CartPole: a rollout and its 16 updates). --compile
adds `torch.compile`. What is not installed is left out.

Each library is a process of its own, as threads of two would fight in one; all are on the same
cores, and compile at the same time. Then they take turns, in another order each round: a pause, a
step that does not count, and a block of steps, while the others wait for a line. Printed: medians
and quartiles of a step's ms over the rounds, the ratio to jdl, and the share of the cores that went
to other processes from the pause to the end of the block, waiting ones of ours and the
hypervisor's included: above 10% in any block there is a warning.

All keep freed memory as jdl does (`keep_memory`); --fresh leaves malloc as it is. jdl has the
thread pool of 8 that `jdl train` gives it, the others have what they choose. OpenMP's threads spin
while they wait for each other, which is PyTorch's best on idle cores and its worst on busy ones:
there set OMP_WAIT_POLICY=passive, which all inherit.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np

CLASSES, VOCABULARY, LENGTH, WIDTH, DEPTH, HEADS, PATCH = 10, 258, 128, 128, 4, 4, 4
RATE, DECAY, LATENT = 1e-3, 1e-4, 32
ENVIRONMENTS, ROLLOUT, EPOCHS, MINIBATCHES = 4, 128, 4, 4  # of PPO, as CleanRL's
PAUSE, BLOCK, BUSY = 0.2, 0.4, 0.1  # seconds; the share of the cores that calls for a warning
ROWS = {
    "mlp": "MLP 784-512-256-10, batch 128",
    "cnn": "CNN 32-64, dense 128, batch 128",
    "lstm": "LSTM 128, 28 steps, batch 128",
    "gpt": f"GPT {DEPTH} x {WIDTH}, {LENGTH} steps, batch 32",
    "vit": f"ViT {DEPTH} x {WIDTH}, 49 patches, batch 64",
    "vae": "VAE 32-64, dense 256, batch 128",
    "gan": "DCGAN 128-64, batch 64",
    "ppo": f"PPO, {ENVIRONMENTS * ROLLOUT} steps of CartPole",
}
Stepper = tuple[Callable[[], object], int]  # a step, to its end; how many parameters it trains


@dataclass(frozen=True)
class Peer:
    """A library, beside this script the one with its steps, and the rows that it has."""

    library: str
    script: str
    rows: tuple[str, ...] = tuple(ROWS)


PEERS = {
    "jdl": Peer("jdl", "bench_peers_jax.py"),
    "jax by hand": Peer("flax", "bench_peers_jax.py", ("mlp", "cnn", "lstm", "gpt")),
    "torch eager": Peer("torch", "bench_peers_torch.py"),
    "torch compiled": Peer("torch", "bench_peers_torch.py", tuple(ROWS)[:-1]),
    "keras on jax": Peer("keras", "bench_peers_jax.py", ("mlp", "cnn", "lstm", "gpt")),
}


def batch_of(row: str) -> tuple[np.ndarray, np.ndarray]:
    """The inputs and targets of a row; PPO has none."""
    rng = np.random.default_rng(0)
    rows = {"gpt": 32, "vit": 64, "gan": 64}.get(row, 128)
    if row == "gpt":
        tokens = rng.integers(0, VOCABULARY, (rows, LENGTH + 1)).astype(np.int32)
        return tokens[:, :-1], tokens[:, 1:]
    shape = {"mlp": (784,), "lstm": (28, 28)}.get(row, (28, 28, 1))
    return rng.random((rows, *shape), np.float32), rng.integers(0, CLASSES, rows).astype(np.int32)


def answer(library: str, build: Callable[[], tuple[Stepper, str]]) -> None:
    """What the process of a library does: builds its step, then takes as many as a line asks for.

    It prints the number of parameters and the versions, or why it is left out, and for each line
    the seconds of a step.
    """
    if find_spec(library) is None:
        return print(json.dumps({"left out": f"{library} is not installed"}), flush=True)
    try:
        (step, parameters), versions = build()
        for _ in range(2):
            step()
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        return print(json.dumps({"left out": reason}), flush=True)
    print(json.dumps({"parameters": int(parameters), "versions": versions}), flush=True)
    for line in sys.stdin:
        step()  # the one before has filled the caches
        began = time.perf_counter()
        for _ in range(int(line)):
            step()
        print(json.dumps((time.perf_counter() - began) / int(line)), flush=True)


@dataclass
class Contestant:
    """The process of a library with one row's step, and what was measured of it."""

    process: subprocess.Popen
    steps: int = 1  # of a block
    seconds: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)  # shares of the cores

    def read(self) -> object:
        """What it has printed; a line that says why it is left out if it has died."""
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"left out": "its process has ended"}

    def take(self, steps: int) -> float:
        """The seconds of a step, by so many."""
        print(steps, file=self.process.stdin, flush=True)
        found = self.read()
        if not isinstance(found, float):
            sys.exit(f"{' '.join(self.process.args)}: {found}")
        return found

    def block(self, cores: list[int]) -> None:
        """A pause and a block of steps, and who else has used the cores meanwhile."""
        before = busy_and_all(cores), own_seconds(self.process.pid)
        time.sleep(PAUSE)
        self.seconds.append(self.take(self.steps))
        after = busy_and_all(cores), own_seconds(self.process.pid)
        (busy, total), own = np.subtract(after[0], before[0]), after[1] - before[1]
        self.others.append(max(0.0, float(busy - own) / float(total)))


def busy_and_all(cores: list[int]) -> tuple[float, float]:
    """Seconds that the cores were busy, and all; those that a hypervisor took are busy."""
    import psutil

    times = [psutil.cpu_times(percpu=True)[core] for core in cores]
    busy = sum(
        sum(getattr(t, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
        for t in times
    )
    return busy, busy + sum(t.idle + getattr(t, "iowait", 0.0) for t in times)


def own_seconds(pid: int) -> float:
    """The processor seconds of a process and of this one."""
    import psutil

    times = [psutil.Process(p).cpu_times() for p in (pid, os.getpid())]
    return sum(t.user + t.system for t in times)


def start(peer: str, row: str, python: str, fresh: bool) -> Contestant:
    """Starts the process of a library for a row."""
    script = PEERS[peer].script
    interpreter = python if script.endswith("torch.py") else sys.executable
    command = [interpreter, str(Path(__file__).with_name(script)), peer, row]
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [*command, "fresh"] if fresh else command, stdin=pipe, stdout=pipe, text=True
    )
    return Contestant(process)


def started(row: str, args: argparse.Namespace, said: set[str]) -> dict[str, Contestant]:
    """The libraries that have a row's step, compiled; says what is left out, and versions, once."""
    names = [n for n, p in PEERS.items() if row in p.rows and (args.compile or "compiled" not in n)]
    all_of_them = {name: start(name, row, args.python, args.fresh) for name in names}
    found, ours = {}, 0
    for name, contestant in all_of_them.items():
        reply = contestant.read()
        note = f"{name}: {reply.get('versions', '')}"
        if reason := reply.get("left out"):
            note = f"{name} is left out: {reason}"
        else:
            found[name], ours = contestant, ours or reply["parameters"]
            if abs(reply["parameters"] / ours - 1) > 0.01:
                sys.exit(f"{row}: {ours} parameters in jdl and {reply['parameters']} in {name}.")
        if note not in said:
            print(note, flush=True)
            said.add(note)
    if "jdl" not in found:
        sys.exit(f"{row}: jdl's own step did not run.")
    return found


def measure(row: str, args: argparse.Namespace, said: set[str], cores: list[int]) -> list[str]:
    """The lines of a row, a library each."""
    contestants = started(row, args, said)
    try:
        for contestant in contestants.values():
            contestant.steps = max(1, round(BLOCK / contestant.take(1)))
        names = list(contestants)
        for n in range(args.rounds):
            for name in names[n % len(names) :] + names[: n % len(names)]:
                contestants[name].block(cores)
    finally:
        for contestant in contestants.values():
            contestant.process.stdin.close()
            contestant.process.wait()
    ours = statistics.median(contestants["jdl"].seconds)
    lines = [line(row, name, found, ours) for name, found in contestants.items()]
    others = [share for found in contestants.values() for share in found.others]
    if disturbed := sum(share > BUSY for share in others):
        lines.append(
            f"  WARNING: other processes took more than {BUSY:.0%} of the cores in {disturbed} of "
            f"{len(others)} blocks, {max(others):.0%} at most: measure again when it is quiet."
        )
    return lines


def line(row: str, name: str, found: Contestant, ours: float) -> str:
    """The line of a library: median, quartiles, ratio, and what other processes took."""
    seconds, rate = statistics.median(found.seconds), ""
    low, high = np.quantile(found.seconds, (0.25, 0.75))
    if row == "ppo":
        rate = f"  {ENVIRONMENTS * ROLLOUT / seconds:,.0f} environment steps/s"
    return (
        f"{ROWS[row]:<34}{name:<16}{1e3 * seconds:>8.2f}{f'{1e3 * low:.2f}-{1e3 * high:.2f}':>17}"
        f"{seconds / ours:>7.2f}{statistics.median(found.others):>8.1%}{rate}"
    )


def main() -> None:
    """Measures row by row and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--python", default=sys.executable, help="one that has torch")
    parser.add_argument("--compile", action="store_true", help="torch.compile too")
    parser.add_argument("--fresh", action="store_true", help="malloc gives memory back")
    parser.add_argument("--cores", type=int, metavar="N", help="the first N; by default all")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    if unknown := [word for word in args.rows if word not in ROWS]:
        parser.error(f"there is no row {', '.join(unknown)}: take {', '.join(ROWS)}")
    if shutil.which(args.python) is None:
        parser.error(f"there is no interpreter {args.python}")
    if args.rounds < 1 or (args.cores is not None and args.cores < 1):
        parser.error("--rounds and --cores are at least 1")
    cores = sorted(os.sched_getaffinity(0))[: args.cores]
    os.sched_setaffinity(0, cores)  # and so those of the libraries
    memory = "fresh" if args.fresh else "kept"
    print(f"cores {', '.join(map(str, cores))}; memory {memory}; {args.rounds} rounds")
    said: set[str] = set()
    for n, row in enumerate(args.rows or ROWS):
        lines = measure(row, args, said, cores)
        if not n:
            head = f"{'ms':>8}{'quartiles':>17}{'ratio':>7}{'others':>8}"
            print(f"{'a training step':<50}{head}")
        print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
