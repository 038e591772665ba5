"""Retrieval metrics of pairs: does each query find its own document among all of them?

The predictions have the embeddings of both halves of each pair: `code` (B, D) of x and `y_code`
(B, D) of y, as `jdl.objectives.contrastive` makes them. All rows of the evaluation are searched,
by cosine similarity. The rank of a row's own document is 1 plus the number of others that are at
least as similar: equal embeddings find nothing, and equal documents are in each other's way. NaN
where an embedding is NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np

from jdl.metrics.columns import Columns, column
from jdl.metrics.rows import Rows
from jdl.types import Error

Side = Literal["x", "y"]
BLOCK = 1024  # queries that are compared with all documents at a time


def retrieval_recall(predictions: Columns, batch: Columns, k: int = 1, queries: Side = "x") -> Rows:
    """Recall at k (recall@k) of retrieval: how many queries have their document in the top k.

    The queries are the x of all rows, and the documents their y; `queries="y"` is the other way.
    """
    if k < 1:
        raise Error(f"k, a number of documents, must be at least 1, not {k}.")
    return _ranked(partial(_share_within, k), predictions, batch, queries)


def mean_reciprocal_rank(predictions: Columns, batch: Columns, queries: Side = "x") -> Rows:
    """Mean reciprocal rank (MRR) of retrieval: the mean over the queries of 1 / rank.

    The rank is that of the query's own document, from 1; queries are those of `retrieval_recall`.
    """
    return _ranked(_mean_inverse, predictions, batch, queries)


def _ranked(
    function: Callable[[np.ndarray], float], predictions: Columns, batch: Columns, queries: Side
) -> Rows:
    if queries not in ("x", "y"):
        raise Error(f'queries must be "x" or "y", not {queries!r}.')
    codes = [column(predictions, name, "predictions") for name in ("code", "y_code")]
    if queries == "y":
        codes.reverse()
    return Rows.of(partial(_of_ranks, function), *codes, mask=batch.get("mask"))


def _of_ranks(
    function: Callable[[np.ndarray], float], queries: np.ndarray, documents: np.ndarray
) -> float:
    finite = np.isfinite(queries).all() and np.isfinite(documents).all()
    return function(ranks(queries, documents)) if finite else float("nan")


def ranks(queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """The rank (N,) of document i for query i by cosine similarity, from 1; both are (N, D)."""
    queries, documents = unit(queries), unit(documents)
    found = []
    for start in range(0, len(queries), BLOCK):
        similarity = queries[start : start + BLOCK] @ documents.T
        own = np.arange(len(similarity)), start + np.arange(len(similarity))
        found.append((similarity >= similarity[own][:, None]).sum(-1))
    return np.concatenate(found)


def unit(codes: np.ndarray) -> np.ndarray:
    """The embeddings (N, D) in 64 bits, divided by their lengths."""
    codes = codes.astype(np.float64)
    return codes / np.maximum(np.linalg.norm(codes, axis=-1, keepdims=True), 1e-12)


def _share_within(k: int, found: np.ndarray) -> float:
    return float((found <= k).mean())


def _mean_inverse(found: np.ndarray) -> float:
    return float((1 / found).mean())


def nearest(queries: np.ndarray, documents: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k most similar documents (M, D) of each query (N, D), best first, and the cosines."""
    queries, documents = unit(queries), unit(documents)
    rows = [
        np.argsort(-(queries[start : start + BLOCK] @ documents.T), kind="stable")[:, :k]
        for start in range(0, len(queries), BLOCK)
    ]
    found = np.concatenate(rows)
    return found, np.einsum("nd,nkd->nk", queries, documents[found])
