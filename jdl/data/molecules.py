"""Molecules as graphs of atoms and bonds, read from SMILES by RDKit; the FreeSolv dataset."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jdl.data.dataset import Dataset
from jdl.data.fetch import dataset_folder
from jdl.data.small_graphs import graphs
from jdl.data.text_files import read_lines, read_rows
from jdl.types import Error

ELEMENTS = ("C", "N", "O", "F", "P", "S", "Cl", "Br", "I", "H", "B", "Si")
HYBRIDIZATIONS = ("SP", "SP2", "SP3")
BONDS = ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC")
Parse = Callable[[str], dict[str, Any]]


@dataclass(frozen=True, eq=False, repr=False)
class Molecules(Dataset):
    """A dataset of molecules, a graph in each row; see `molecules`."""

    parse: Parse | None = None

    def read_file(self, path: Path) -> tuple[list[str], dict[str, np.ndarray]] | None:
        """The SMILES of each molecule of a new file, and its columns; None for another kind.

        A .csv, .tsv or .jsonl file with the column smiles, or .smi and .txt with one a line.
        """
        suffix = path.suffix.lower()
        if suffix in (".smi", ".txt"):
            places, lines = read_lines(path)
            smiles = [line.split()[0] for line in lines]
        elif suffix in (".csv", ".tsv", ".jsonl", ".ndjson"):
            rows = read_rows(path, ("smiles",), None)
            places, smiles = rows.places, [text for (text,) in rows.texts]
        else:
            return None
        new = graphs(_parsed(smiles, places, self.parse or molecule_graph))
        return smiles, _padded_like(new, self.source.take(np.zeros(1, np.int32)), smiles)


def molecules(smiles: Sequence[str], y: Any, parse: Parse | None = None) -> Molecules:
    """A dataset of molecules with a target each, for MPNNs and other graph neural networks.

    `smiles` are texts such as "CCO"; RDKit reads them (`pip install rdkit`). Columns are those of
    `jdl.data.graphs`: x (N, F), the atoms; edges (E, 2), each bond in both directions;
    `edge_features` (E, D), the bonds; `length`, the number of atoms; y. The features are those of
    `molecule_graph`, or of your own function `parse(smiles)`, which gives a dict of x, edges and
    edge_features. Raises `Error` for a text that is no molecule.
    """
    items = _parsed(smiles, [f"Molecule {n}" for n in range(len(smiles))], parse or molecule_graph)
    plain = graphs([{**item, "y": target} for item, target in zip(items, y, strict=True)])
    return Molecules(plain.source, plain.ids, parse=parse)


def freesolv() -> Molecules:
    """FreeSolv (Mobley and Guthrie, 2014): 642 molecules, with their free energy of hydration.

    y is the measured energy in kcal/mol, from -25.5 to 3.4. Fetch it once with `jdl data fetch
    freesolv`. Needs RDKit.
    """
    path = dataset_folder("freesolv") / "freesolv.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    y = np.asarray([row["expt"] for row in rows], np.float32)
    return molecules([row["smiles"] for row in rows], y)


def molecule_graph(smiles: str) -> dict[str, Any]:
    """The graph of a molecule by RDKit: x (N, 26), edges (E, 2), `edge_features` (E, 6).

    Atoms: element (one-hot, and others), degree, hydrogens and charge (numbers), hybridization
    (one-hot), aromatic, in a ring, and in a ring of 3 to 7 atoms (one each). Bonds: single, double,
    triple or aromatic, conjugated, in a ring. Hydrogens are counted at their atom and are no nodes.
    """
    try:
        from rdkit import Chem
    except ImportError as error:
        raise Error(
            "Reading molecules from SMILES needs RDKit: pip install rdkit. Or give "
            "jdl.data.molecules a function of your own, parse=..., or graphs to jdl.data.graphs."
        ) from error
    molecule = Chem.MolFromSmiles(smiles)
    if molecule is None or not molecule.GetNumAtoms():
        raise Error(f"{smiles!r} is no molecule in SMILES, as RDKit reads it: correct it.")
    edges = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in molecule.GetBonds()]
    return {
        "x": np.asarray([_atom(atom) for atom in molecule.GetAtoms()], np.float32),
        "edges": np.asarray(edges, np.int32).reshape(-1, 2),
        "edge_features": np.asarray([_bond(b) for b in molecule.GetBonds()], np.float32).reshape(
            -1, len(BONDS) + 2
        ),
    }


def _atom(atom: Any) -> list[float]:
    """The features of an atom of RDKit."""
    ring = [atom.IsInRing(), *(atom.IsInRingSize(size) for size in range(3, 8))]
    return [
        *(float(atom.GetSymbol() == element) for element in ELEMENTS),
        float(atom.GetSymbol() not in ELEMENTS),
        atom.GetDegree() / 4,
        atom.GetTotalNumHs() / 4,
        float(atom.GetFormalCharge()),
        *(float(str(atom.GetHybridization()) == kind) for kind in HYBRIDIZATIONS),
        float(atom.GetIsAromatic()),
        *map(float, ring),
    ]


def _bond(bond: Any) -> list[float]:
    """The features of a bond of RDKit."""
    kinds = [float(str(bond.GetBondType()) == kind) for kind in BONDS]
    return [*kinds, float(bond.GetIsConjugated()), float(bond.IsInRing())]


def _parsed(smiles: Sequence[str], places: Sequence[str], parse: Parse) -> list[dict[str, Any]]:
    """The graph of each molecule; raises `Error` with the place of one that cannot be read."""
    found = []
    for text, place in zip(smiles, places, strict=True):
        try:
            found.append(parse(text))
        except Error as error:
            raise Error(f"{place}: {error}") from error
    return found


def _padded_like(
    new: Dataset, row: dict[str, np.ndarray], smiles: Sequence[str]
) -> dict[str, np.ndarray]:
    """The columns of new graphs, padded to the shapes of a row of the dataset."""
    atoms, columns = row["x"].shape[1], {}
    lengths = new.columns["length"]
    if lengths.max() > atoms:
        raise Error(
            f"{smiles[int(lengths.argmax())]} has {lengths.max()} atoms, and the model reads "
            f"molecules of up to {atoms}, as those of its data: leave it out."
        )
    bonds, most = (new.columns["edges"][..., 0] >= 0).sum(1), row["edges"].shape[1]
    if bonds.max() > most:
        raise Error(
            f"{smiles[int(bonds.argmax())]} has {bonds.max() // 2} bonds, and the model reads "
            f"molecules of up to {most // 2}, as those of its data: leave it out."
        )
    for name, column in new.columns.items():
        size = row[name].shape[1] if name in ("x", "edges", "edge_features") else None
        if size is not None:
            fill = -1 if name == "edges" else 0
            more = [(0, 0), (0, max(0, size - column.shape[1])), *[(0, 0)] * (column.ndim - 2)]
            column = np.pad(column[:, :size], more, constant_values=fill)
        columns[name] = column
    return columns
