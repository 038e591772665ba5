"""Molecules as graphs, and message passing with edge features against loops over atoms.

Seen to fail: with the matrix of an edge transposed; with the mean of the virtual node over padding;
with padding nodes in the readout; with columns of new files that are not padded alike; with bonds
in one direction. What needs RDKit is skipped without it.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jdl
from jdl.data import molecule_graph, molecules
from jdl.models.mpnn import MPNN
from jdl.types import Error


def chain(text):
    """A molecule of a letter each, bound in a row, and a Q to the first: in place of RDKit."""
    if not text.isalpha():
        raise Error(f"{text!r} is no chain.")
    x = [[float(letter == "C"), float(letter == "O")] for letter in text]
    edges = [(n, n + 1) for n in range(len(text) - 1)] + [(0, 2)] * text.endswith("Q")
    return {
        "x": x,
        "edges": np.asarray(edges).reshape(-1, 2),
        "edge_features": np.asarray([[n, 1.0] for n, _ in edges]).reshape(-1, 2),
    }


def test_molecules_are_rows_of_graphs_and_new_files_are_read_alike(tmp_path):
    data = molecules(["CCO", "C", "OC"], [1.5, -2, 0], chain)
    columns = data.columns
    assert columns["x"].shape == (3, 3, 2)
    assert columns["length"].tolist() == [3, 1, 2]
    assert sorted(map(tuple, columns["edges"][0])) == [(0, 1), (1, 0), (1, 2), (2, 1)]
    assert (columns["edges"][1] == -1).all()
    np.testing.assert_array_equal(columns["y"], np.float32([1.5, -2, 0]))
    (tmp_path / "new.csv").write_text("name,smiles\na,OC\nb,C\n")
    (tmp_path / "new.smi").write_text("OC water\n\nC\n")
    for name in ("new.csv", "new.smi"):
        names, new = data.read_file(tmp_path / name)
        assert names == ["OC", "C"]
        for column in ("x", "edges", "edge_features", "length"):
            np.testing.assert_array_equal(new[column], columns[column][[2, 1]])
    assert data.read_file(tmp_path / "new.png") is None
    (tmp_path / "large.smi").write_text("C\nCCCC\n")
    with pytest.raises(Error, match="CCCC has 4 atoms, and the model reads molecules of up to 3"):
        data.read_file(tmp_path / "large.smi")
    (tmp_path / "ring.smi").write_text("C\nCCQ\n")
    with pytest.raises(Error, match="CCQ has 3 bonds, and the model reads molecules of up to 2"):
        data.read_file(tmp_path / "ring.smi")
    (tmp_path / "wrong.csv").write_text("smiles\nC\nC-\n")
    with pytest.raises(Error, match=r"wrong.csv:3: 'C-' is no chain"):
        data.read_file(tmp_path / "wrong.csv")
    with pytest.raises(Error, match="Molecule 1: '-' is no chain"):
        molecules(["C", "-"], [0, 0], chain)


def test_freesolv_has_its_measured_energies(tmp_path, monkeypatch):
    text = 'iupac,smiles,expt,calc\n"2,2-a",CO,-11.01,-9.6\nb,C,1.83,2.4\n'
    (tmp_path / "freesolv.csv").write_text(text)
    module = sys.modules["jdl.data.molecules"]
    monkeypatch.setattr(module, "dataset_folder", lambda name: tmp_path)
    monkeypatch.setattr(module, "molecule_graph", chain)
    data = jdl.data.freesolv()
    np.testing.assert_array_equal(data.columns["y"], np.float32([-11.01, 1.83]))
    assert data.columns["length"].tolist() == [2, 1]


def test_without_rdkit_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(Error, match="pip install rdkit"):
        molecule_graph("C")


def test_rdkit_reads_atoms_and_bonds():
    pytest.importorskip("rdkit")
    acetate = molecule_graph("CC(=O)[O-]")
    assert acetate["edges"].tolist() == [[0, 1], [1, 2], [1, 3]]
    assert acetate["x"].shape == (4, 26)
    np.testing.assert_array_equal(acetate["x"][:, :3].argmax(1), [0, 0, 2, 2])
    np.testing.assert_array_equal(acetate["x"][:, 15], [0, 0, 0, -1])  # charge
    np.testing.assert_array_equal(acetate["x"][:, 14], [0.75, 0, 0, 0])  # hydrogens
    np.testing.assert_array_equal(acetate["edge_features"][:, :2], [[1, 0], [0, 1], [1, 0]])
    assert molecule_graph("c1ccccc1")["edge_features"][:, [3, 5]].all()
    assert molecule_graph("C")["edge_features"].shape == (0, 6)
    with pytest.raises(Error, match="is no molecule in SMILES"):
        molecule_graph("C1CC")


WIDTH, STEPS = 3, 2


def dense(params, x):
    return x @ params["kernel"] + params.get("bias", 0)


def gru(params, state, x):
    reset = 1 / (1 + np.exp(-(dense(params["ir"], x) + dense(params["hr"], state))))
    update = 1 / (1 + np.exp(-(dense(params["iz"], x) + dense(params["hz"], state))))
    new = np.tanh(dense(params["in"], x) + reset * dense(params["hn"], state))
    return (1 - update) * new + update * state


def by_loops(params, x, edges, features):
    """The network of a graph without padding, atom by atom."""
    first = state = np.maximum(dense(params["node"], x), 0)
    everywhere = np.zeros(WIDTH)
    for _ in range(STEPS):
        received = np.zeros_like(state)
        for (sender, receiver), feature in zip(edges, features, strict=True):
            hidden = np.maximum(dense(params["edge_hidden"], feature), 0)
            received[receiver] += dense(params["edge_out"], hidden).reshape(3, 3) @ state[sender]
        everywhere = gru(params["update_virtual"], everywhere, state.mean(0))
        state = gru(params["update"], state, received + everywhere)
    gate = 1 / (1 + np.exp(-dense(params["gate"], np.concatenate([state, first], 1))))
    pooled = (gate * dense(params["pooled"], state)).sum(0)
    return dense(params["out"], np.maximum(dense(params["hidden"], pooled), 0))


@pytest.mark.slow
def test_message_passing_is_that_of_loops_over_atoms_and_bonds():
    data = molecules(["CCOC", "CO", "OCC"], [0, 0, 0], chain)
    batch = {name: jnp.asarray(column) for name, column in data.columns.items()}
    mask = jnp.arange(4)[None] < batch["length"][:, None]
    model = MPNN(2, WIDTH, STEPS)
    wild = jnp.where(mask[:, :, None], batch["x"], 7)  # padding may hold anything
    inputs = (wild, batch["edges"], False, mask, batch["edge_features"])
    variables = jax.jit(model.init, static_argnums=3)(jax.random.key(0), *inputs)
    found = jax.jit(model.apply, static_argnums=3)(variables, *inputs)
    params = jax.tree.map(np.asarray, variables["params"])
    for n, atoms in enumerate(batch["length"].tolist()):
        edges = np.asarray(batch["edges"][n])
        real = edges[:, 0] >= 0
        features = np.asarray(batch["edge_features"][n])[real]
        expected = by_loops(params, np.asarray(batch["x"][n, :atoms]), edges[real], features)
        np.testing.assert_allclose(found[n], expected, atol=1e-6)
    plain = jax.eval_shape(
        MPNN(2, WIDTH, STEPS, virtual_node=False).init, jax.random.key(0), wild, batch["edges"]
    )
    assert "update_virtual" not in plain["params"]
