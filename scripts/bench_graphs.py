"""Sampled neighbors beside the whole graph: rate and memory of `fashion_sage`; and simple methods.

A step of each is compiled and timed, the making of its batch included: labelled nodes a second of
processor time, in which other work on the machine hardly counts, and the memory that the compiled
step needs beside its arguments (XLA's own figure). Then, on the same splits as the experiments:
label propagation (Zhu and Ghahramani, 2002) on the labelled nodes, and common neighbors (Liben-
Nowell and Kleinberg, 2007) on the links. Links with as many common neighbors count half.

    scripts/bench graphs 20 3  # steps that are timed, sampled and whole
"""

import platform
import sys
import time
from pathlib import Path

import jax
import numpy as np
from scipy.sparse import coo_array, csr_array

import jdl
from jdl.data.graphs import Graph
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


def adjacency(graph: Graph) -> csr_array:
    """1 where a node of the row hears one of the column."""
    ones = np.ones(len(graph.edges), np.float32)
    size = len(graph), len(graph)
    return csr_array(coo_array((ones, (graph.edges[:, 1], graph.edges[:, 0])), size))


def label_propagation(graph: Graph, known: np.ndarray) -> np.ndarray:
    """The labels of all nodes, of the labels of some, which are -1 at others."""
    matrix = adjacency(graph)
    degree = matrix.sum(1).clip(1)[:, None]
    given = (known[:, None] == np.arange(known.max() + 1)).astype(np.float32)
    shares = given
    for _ in range(ITERATIONS):
        shares = np.where(known[:, None] >= 0, given, (matrix @ shares) / degree)
    return shares.argmax(1)


def common_neighbors(graph: Graph, pairs: np.ndarray) -> np.ndarray:
    """How many neighbors the two nodes of each pair have in common."""
    matrix = adjacency(graph)
    return np.asarray(matrix[pairs[:, 0]].multiply(matrix[pairs[:, 1]]).sum(1))


def main() -> None:
    """Prints all figures."""
    sampled, whole = map(int, sys.argv[1:])
    print(f"Python {platform.python_version()}, jax {jax.__version__}, {platform.machine()}")
    for name, fanouts, steps in (("sampled", (10, 10), sampled), ("whole graph", (), whole)):
        run = fashion_sage.run(fashion_sage.Config(fanouts=fanouts))
        rate, memory = step_cost(run, steps)
        print(f"{name:<12} {rate:,.0f} labelled nodes a CPU second, {memory:,.0f} MB a step")
    train, valid, test = (part.dataset.columns for part in (run.train, run.valid, run.test))
    graph = Graph(train["x"][0], train["edges"][0], train["y"][0])
    said = label_propagation(graph, train["y"][0])
    accuracies = [(said == y)[y >= 0].mean() for y in (valid["y"][0], test["y"][0])]
    print("label propagation: accuracy {:.4f} valid, {:.4f} test".format(*accuracies))
    links = fashion_links.run(fashion_links.Config()).test
    rows = links.loader.dataset.columns
    known = Graph(links.graph.x, links.graph.edges, graph.y)
    yes, no = (common_neighbors(known, rows[name]) for name in ("link", "negative"))
    auc = ((yes[:, None] > no).mean() + (yes[:, None] >= no).mean()) / 2
    print(f"common neighbors: AUC {auc:.4f} on {len(yes):,} test links")


if __name__ == "__main__":
    main()
