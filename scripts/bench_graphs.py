"""Sampled neighbors beside the whole graph: rate and memory of `fashion_sage`; and simple methods.

A step of each is compiled and timed, the making of its batch included: labelled nodes a second of
the process's processor time, and the memory that the compiled step needs beside its arguments
(XLA's own figure). Then, on the same splits as the experiments: label propagation (Zhu and
Ghahramani, 2002) on the labelled nodes; and on the links common neighbors (Liben-Nowell and
Kleinberg, 2007), and minus the squared distance of the two nodes' own features, by which the graph
was made. AUC is that of the experiment: each test link against its own negative, a tie counts half.

    scripts/bench graphs 20 3  # steps that are timed, sampled and whole
    scripts/bench graphs  # the simple methods alone
"""

import platform
import sys
import time
from pathlib import Path

import jax
import numpy as np
from scipy.sparse import csr_array

import jdl
from jdl.data.neighbor_loader import Adjacency, LinkNeighborLoader
from jdl.learners import jit_learner, with_data

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import fashion_links
import fashion_sage

ITERATIONS = 50  # of label propagation


def step_cost(run: jdl.Run, steps: int) -> tuple[float, float]:
    """Labelled nodes a CPU second, and MB of temporary memory, of a training step."""
    learner = with_data(run.learner, run.train)
    batch, data = run.train[0], run.train.read()
    state = jit_learner(run.learner).init(jax.random.key(0), batch)
    example = next(data)
    step = jax.jit(learner.step, donate_argnums=0).lower(state, example).compile()
    state, _ = jax.block_until_ready(step(state, example))
    began = time.process_time()
    for _ in range(steps):
        state, _ = step(state, next(data))
    jax.block_until_ready(state)
    seconds = time.process_time() - began
    labelled = int((np.asarray(batch["y"]) >= 0).sum())
    return labelled * steps / seconds, step.memory_analysis().temp_size_in_bytes / 1e6


def matrix_of(graph: Adjacency) -> csr_array:
    """1 where the node of the column is a neighbor of that of the row."""
    indices, indptr = (np.asarray(graph.on_device[name]) for name in ("indices", "indptr"))
    size = len(graph.x), len(graph.x)
    return csr_array((np.ones(len(indices), np.float32), indices, indptr), size)


def label_propagation(graph: Adjacency, known: np.ndarray) -> np.ndarray:
    """The labels of all nodes, of the labels of some, which are -1 at others."""
    matrix = matrix_of(graph)
    degree = matrix.sum(1).clip(1)[:, None]
    given = (known[:, None] == np.arange(known.max() + 1)).astype(np.float32)
    shares = given
    for _ in range(ITERATIONS):
        shares = np.where(known[:, None] >= 0, given, (matrix @ shares) / degree)
    return shares.argmax(1)


def common_neighbors(graph: Adjacency, pairs: np.ndarray) -> np.ndarray:
    """How many neighbors the two nodes of each pair have in common."""
    matrix = matrix_of(graph)
    return np.asarray(matrix[pairs[:, 0]].multiply(matrix[pairs[:, 1]]).sum(1))


def nearness(graph: Adjacency, pairs: np.ndarray) -> np.ndarray:
    """Minus the squared distance of the features of the two nodes of each pair."""
    return -((graph.x[pairs[:, 0]] - graph.x[pairs[:, 1]]) ** 2).sum(1)


def print_step_costs(sampled: int, whole: int) -> None:
    """The rate and the memory of `fashion_sage`, sampled and by the whole graph."""
    for name, fanouts, steps in (("sampled", (10, 10), sampled), ("whole graph", (), whole)):
        rate, memory = step_cost(fashion_sage.run(fashion_sage.Config(fanouts=fanouts)), steps)
        print(f"{name:<12} {rate:,.0f} labelled nodes a CPU second, {memory:,.0f} MB a step")


def print_label_propagation() -> None:
    """Its accuracy on the valid and test nodes of `fashion_sage`."""
    run = fashion_sage.run(fashion_sage.Config(fanouts=()))
    train, valid, test = (part.dataset.columns for part in (run.train, run.valid, run.test))
    said = label_propagation(Adjacency(train["x"][0], train["edges"][0]), train["y"][0])
    accuracies = [(said == y)[y >= 0].mean() for y in (valid["y"][0], test["y"][0])]
    print("label propagation: accuracy {:.4f} valid, {:.4f} test".format(*accuracies))


def print_link_scores() -> None:
    """The AUC of simple scores on the test links of `fashion_links`."""
    links = fashion_links.run(fashion_links.Config()).test
    assert isinstance(links, LinkNeighborLoader)
    rows = links.loader.dataset.columns
    for name, score in (("common neighbors", common_neighbors), ("nearness of x", nearness)):
        yes, no = (score(links.graph, rows[column]) for column in ("link", "negative"))
        auc = (np.sign(yes - no).mean() + 1) / 2
        print(f"{name}: AUC {auc:.4f} on {len(yes):,} test links")


def main() -> None:
    """Prints all figures."""
    print(f"Python {platform.python_version()}, jax {jax.__version__}, {platform.machine()}")
    if sys.argv[1:]:
        print_step_costs(*map(int, sys.argv[1:]))
    print_label_propagation()
    print_link_scores()


if __name__ == "__main__":
    main()
