"""Trains experiments, each in a process of its own; prints what they reach, and the time it took.

scripts/results [NAME ...] [--jobs N] [--root DIR] [--json FILE] [-- --flag value ...]

Without names, all of them; what follows `--` goes to each (`-- --steps 50` tries whether all run).
A row is printed as an experiment ends, and written to the JSON file: so nothing is lost if this is
stopped. Ends with code 1 if any experiment failed.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
Row = dict[str, Any]


def main() -> None:
    """Trains the experiments that the command line names."""
    args = _arguments()
    rows: list[Row] = []
    lock = threading.Lock()

    def train(name: str) -> None:
        row = _train(name, args.root, args.flags)
        with lock:
            rows.append(row)
            if args.json:
                args.json.write_text(json.dumps(rows, indent=1) + "\n")
            print(_line(row), flush=True)

    with ThreadPoolExecutor(args.jobs) as threads:
        list(threads.map(train, args.names))
    raise SystemExit(any(row["code"] for row in rows))


def _arguments() -> argparse.Namespace:
    words = sys.argv[1:]
    at = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    every = sorted(path.stem for path in EXPERIMENTS.glob("*.py"))
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--jobs", type=int, default=1, help="how many at the same time")
    parser.add_argument("--root", type=Path, default=Path("runs"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(words[:at])
    if unknown := sorted(set(args.names) - set(every)):
        parser.error(f"no such experiments: {', '.join(unknown)}")
    args.names, args.flags = args.names or every, words[at + 1 :]
    return args


def _train(name: str, root: Path, flags: list[str]) -> Row:
    """Trains one; its exit code, final metrics, seconds with imports, and the end of an error."""
    words = [sys.executable, str(EXPERIMENTS / f"{name}.py"), "--root", str(root), *flags]
    start = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True)
    row: Row = {"experiment": name, "code": done.returncode, "flags": flags}
    row["seconds"] = round(time.perf_counter() - start, 1)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-2000:]
        return row | {"error": said or "it ended without a word, as one that is killed does"}
    folder = Path(done.stdout.strip().splitlines()[-1].split("  ")[-1])
    summary = json.loads((folder / "summary.json").read_text())
    environment = json.loads((folder / "run.json").read_text())["environment"]
    row |= {key: summary[key] for key in ("step", "metrics")}
    row["seconds_training"] = round(summary["seconds"], 1)
    return row | {"folder": str(folder), "device": environment["devices"]["kind"]}


def _line(row: Row) -> str:
    if row["code"]:
        return f"{row['experiment']:<20} code {row['code']}: {row['error'].splitlines()[-1]}"
    metrics = row["metrics"].get("test") or row["metrics"].get("valid") or {}
    shown = (f"{name} {value:.4f}" for name, value in metrics.items() if "/" not in name)
    return f"{row['experiment']:<20} {row['seconds_training']:>7} s  {'  '.join(shown)}"


if __name__ == "__main__":
    main()
