"""Storms: runs killed, and checkpoints damaged, at random end in the bits of a run left in peace.

    scripts/storm kill -n 100
    scripts/storm damage -n 200

Seeded: the same storm comes again with the same --seed, as far as instants can be repeated. Ends
with code 1, and keeps what it trained, where anything differs.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from harness import SCRIPT, digest, finish, folder_of, lines, spawn, train

from jdl.store.manifest import damage
from jdl.train.compile_cache import quiet_libraries, use_compilation_cache


@dataclass(frozen=True)
class Row:
    """What is trained, and the flags of which each start takes one at random."""

    name: str
    flags: tuple[str, ...]
    starts: tuple[tuple[str, ...], ...] = ((),)
    script: Path = SCRIPT


DEVICES = (("--devices", "1"), ("--devices", "2"), ("--devices", "4"))
ROWS = [
    Row(
        "BatchNorm, dropout, augmentation, EMA, streamed rows", ("--streamed", "--save-every", "3")
    ),
    Row(
        "a stateful language model",
        ("--save-every", "3"),
        script=SCRIPT.with_name("stateful_lm.py"),
    ),
    Row(
        "a GAN with EMA",
        ("--save-every", "3"),
        script=SCRIPT.with_name("gan.py"),
    ),
    Row("DQN of two seeds", ("--save-every", "3"), script=SCRIPT.with_name("dqn.py")),
    Row("SAC", ("--save-every", "3"), script=SCRIPT.with_name("sac.py")),
    Row(
        "deep clustering, from k-means half-way",
        ("--save-every", "3"),
        script=SCRIPT.with_name("kmeans.py"),
    ),
    Row(
        "elastic, on other devices at each restart",
        ("--elastic", "4", "--save-every", "3"),
        DEVICES,
    ),
]


def ended(root: Path) -> tuple[str, list[str]]:
    """The digest and the log of the run under `root`."""
    folder = folder_of(root)
    return digest(folder), lines(folder)


def kill(count: int, seed: int, base: Path) -> int:
    """Kills runs until there were `count` kills; how many runs ended in other bits."""
    chance, wrong = random.Random(seed), 0
    for number, row in enumerate(ROWS):
        kills = count // len(ROWS) + (number < count % len(ROWS))
        if not kills:
            continue
        for peace in (
            "compiled",
            "peace",
        ):  # the second has its programs from the cache, as those to be killed have
            began = time.monotonic()
            finish(spawn(base / f"{number}.{peace}", *row.flags, script=row.script))
        max_length, expected = time.monotonic() - began, ended(base / f"{number}.peace")
        done, runs = 0, 0
        while done < kills:
            root = base / f"{number}.{runs}"
            while done < kills and killed(root, row, chance, max_length):
                done += 1
            finish(spawn(root, *row.flags, script=row.script))
            runs += 1
            same = ended(root) == expected
            wrong += not same
            bits = "the same bits" if same else "OTHER BITS"
            print(f"{row.name}: {done} of {kills} kills, run {runs}: {bits}", flush=True)
            if same:
                shutil.rmtree(root)
    return wrong


def killed(root: Path, row: Row, chance: random.Random, max_length: float) -> bool:
    """Trains, and kills at a random instant; whether the training was still under way."""
    process = spawn(root, *row.flags, *chance.choice(row.starts), script=row.script)
    try:
        process.wait(chance.uniform(0.3, 1.0) * max_length)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    output, _ = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), output
    return process.returncode != 0


def damaged(folder: Path, chance: random.Random) -> str:
    """Damages one file of a checkpoint; says how."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path, how = chance.choice(files), chance.choice(("flip", "truncate", "delete", "empty", "swap"))
    content = path.read_bytes()
    if how == "flip" and content:
        place = chance.randrange(len(content))
        path.write_bytes(
            content[:place]
            + bytes([content[place] ^ 1 << chance.randrange(8)])
            + content[place + 1 :]
        )
    elif how == "truncate" and content:
        path.write_bytes(content[: chance.randrange(len(content))])
    elif how == "swap":
        other = chance.choice([p for p in files if p.read_bytes() != content])
        path.write_bytes(other.read_bytes())
        other.write_bytes(content)
    elif how == "empty" and content:
        path.write_bytes(b"")
    else:
        path.unlink()
    return f"{how} {path.relative_to(folder)}"


def damage_storm(count: int, seed: int, base: Path) -> int:
    """Damages the newest checkpoint of a stopped run, and resumes it; how often that went wrong."""
    chance, wrong = random.Random(seed), 0
    fields = {"save_every": 5, "eval_every": 0, "keep": 3}
    whole = train(base / "peace", **fields)
    expected = digest(whole), lines(whole)
    stopped = base / "stopped"
    shutil.copytree(base / "peace", stopped)
    shutil.rmtree(next(stopped.rglob("checkpoints/60")))  # so that there is something to go on with
    for trial in range(count):
        root = base / str(trial)
        shutil.copytree(stopped, root)
        checkpoint = next(root.rglob("checkpoints/55"))
        how = damaged(checkpoint, chance)
        noticed = damage(checkpoint) is not None
        resumed = train(root, **fields)
        same = noticed and resumed.steps == 10 and (digest(resumed), lines(resumed)) == expected
        wrong += not same
        if not same or trial % 20 == 19:
            print(
                f"{trial + 1} of {count}: {how}: {'noticed, the same bits' if same else 'WRONG'}",
                flush=True,
            )
        if same:
            shutil.rmtree(root)
    return wrong


def main() -> None:
    """Raises a storm, and ends with code 1 where anything was lost."""
    parser = argparse.ArgumentParser(prog="scripts/storm")
    parser.add_argument("kind", choices=("kill", "damage"))
    parser.add_argument("-n", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    os.environ |= {"JAX_NUM_CPU_DEVICES": "4", "PJRT_NPROC": "8"}
    quiet_libraries()
    use_compilation_cache()
    base = Path(tempfile.mkdtemp(prefix="storm-"))
    wrong = (kill if given.kind == "kill" else damage_storm)(given.n, given.seed, base)
    print(f"{given.n} times, seed {given.seed}: {wrong} wrong{f'; see {base}' if wrong else ''}")
    if not wrong:
        shutil.rmtree(base)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
