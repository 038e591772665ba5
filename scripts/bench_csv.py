"""Reading a CSV file: `jdl.data.csv` beside `pandas.read_csv` alone, in turn; medians.

Processor seconds, of all threads, because the machine may be shared.

jdl also checks the text, hashes it, finds each column's kind and writes the columns into its cache.
Reading the file again takes it from the cache.
"""

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pandas
import pyarrow

ROWS, ROUNDS = 100_000, 5


def write(path: Path) -> None:
    """A table of 10 columns of numbers, 5 of whole numbers and 5 of categories."""
    chance = np.random.default_rng(0)
    columns = {f"number {n}": chance.normal(size=ROWS) for n in range(10)}
    columns |= {f"whole {n}": chance.integers(0, 10**n, ROWS) for n in range(1, 6)}
    for n in (10, 20, 100, 200, 1_000):
        values = np.asarray([f"value {k}" for k in range(n)])
        columns[f"category of {n}"] = values[chance.integers(0, n, ROWS)]
    pandas.DataFrame(columns).to_csv(path, index=False)


def seconds(read: Callable[[], object]) -> float:
    """The processor time that a call takes."""
    start = time.process_time()
    read()
    return time.process_time() - start


def main() -> None:
    """Prints the medians and their ratio to pandas."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JDL_CACHE"] = folder
        import jdl

        path = Path(folder) / "table.csv"
        write(path)
        size = path.stat().st_size / 1e6
        times: dict[str, list[float]] = {}
        for _ in range(ROUNDS):
            shutil.rmtree(Path(folder) / "tables", ignore_errors=True)
            ways = {
                "pandas.read_csv": lambda: pandas.read_csv(path),
                "pandas.read_csv, pyarrow": lambda: pandas.read_csv(path, engine="pyarrow"),
                "jdl.data.csv, first time": lambda: jdl.data.csv(path),
                "jdl.data.csv, from the cache": lambda: jdl.data.csv(path),
            }
            for name, read in ways.items():
                times.setdefault(name, []).append(seconds(read))
    print(
        f"{size:.0f} MB, {ROWS:,} rows; Python {platform.python_version()}, "
        f"pandas {pandas.__version__}, pyarrow {pyarrow.__version__}"
    )
    for name, taken in times.items():
        ratio = median(taken) / median(times["pandas.read_csv"])
        print(f"{name:<30} {median(taken):.2f} s  {size / median(taken):5.0f} MB/s  {ratio:.2f}")


if __name__ == "__main__":
    main()
