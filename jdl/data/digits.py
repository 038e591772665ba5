"""The handwritten digits of scikit-learn."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from jdl.data.dataset import Dataset, arrays
from jdl.types import Error


def digits(*fractions: float) -> tuple[Dataset, ...]:
    """The 1,797 handwritten digits of scikit-learn (Alpaydin and Kaynak, 1998): (train, test).

    Columns: x (8, 8, 1) from 0 to 1, and y from 0 to 9. They are the test set of UCI's optdigits,
    by 13 writers. By default a fixed split, 80% for training and 20% for testing; `fractions` gives
    other splits: (0.6, 0.2, 0.2), or (1.0,) for one dataset of all digits.
    """
    spec = find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise Error(
            "The digits are in scikit-learn, which is not installed: pip install scikit-learn."
        )
    # Its file alone: to import the package takes a second or two.
    path = Path(spec.submodule_search_locations[0]) / "datasets/data/digits.csv.gz"
    if not path.exists():
        raise Error(f"This version of scikit-learn has no {path}: install an earlier one.")
    rows = np.loadtxt(path, delimiter=",")
    images = (rows[:, :-1].reshape(-1, 8, 8, 1) / 16).astype(np.float32)
    dataset = arrays(labels=[str(n) for n in range(10)], x=images, y=rows[:, -1].astype(int))
    return dataset.split(*(fractions or (0.8, 0.2)), seed=0)
