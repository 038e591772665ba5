"""How tests serve: a server of its own in a thread, with a client, at a free port."""

import contextlib
import math
import threading
import time

import httpx
import numpy as np
import optax
import pytest
import uvicorn
from harness import train

import jdl
import jdl.serve
from jdl.models.rnn import RNN
from jdl.serve import batching
from jdl.serve.server import Protocol

DIGITS, WORDS = "/v1/models/kitchen_sink", "/v1/models/words"
LIMITS = {"max_batch": 4, "max_rows": 20, "max_body": 100_000, "max_memory": 2_000_000}


@contextlib.contextmanager
def serving(folders, token=None, ready=True, **limits):
    """A client of a server of exported models; `client.deployment` is what the server has."""
    application = jdl.serve.app(folders, jdl.serve.Limits(**limits), token)
    with (
        listening(application, http=Protocol, ws="none", access_log=False) as (host, port),
        httpx.Client(base_url=f"http://{host}:{port}", timeout=60, trust_env=False) as client,
    ):
        client.deployment, client.address = application.state.deployment, (host, port)
        if ready:
            until(lambda: client.get("/readyz").status_code == 200)
        yield client


@contextlib.contextmanager
def listening(application, **options):
    """The address of a server of an application, in a thread of its own."""
    server = uvicorn.Server(uvicorn.Config(application, port=0, log_level="error", **options))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        yield server.servers[0].sockets[0].getsockname()
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def client(bundles):
    """A client of a server of both small models."""
    with serving(bundles, **LIMITS) as client:
        yield client


@pytest.fixture(scope="module")
def x():
    """Eight digits."""
    return np.asarray(jdl.data.digits()[1].columns["x"][:8], np.float32)


def until(condition, seconds=300):
    """Waits until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def export_small(root):
    """The exported models of digits and of texts, of runs of a step or two."""
    digits = jdl.export.export(train(root / "runs", steps=2).folder, root / "digits")
    run, folder = words(root / "runs")
    return digits, jdl.export.export(folder, root / "words", run=run)


def words(root):
    """A run that classifies texts of up to 8 bytes."""
    tokenizer, c = jdl.data.ByteTokenizer(), jdl.Config(name="words", steps=1)
    x = np.random.default_rng(0).integers(97, 122, (4, 8))
    data = jdl.data.arrays(x=x, length=np.asarray([8, 5, 3, 8]), y=np.arange(4) % 2)
    model = RNN(2, (4,), vocab_size=tokenizer.vocab_size, embedding_width=4)
    learner = jdl.descent(jdl.objectives.classify(model), optax.sgd(0.1))
    run = jdl.Run(
        c, learner, data.shuffled(4, 0), test=data.batches(4), tokenizer=tokenizer,
        labels=("dull", "fine"),
    )  # fmt: skip
    return run, jdl.fit(run, jdl.Options(root=root, quiet=True)).folder


def ask(client, x, path=f"{DIGITS}/predict"):
    """The predictions for rows."""
    response = client.post(path, json={"rows": np.asarray(x).tolist()})
    assert response.status_code == 200, response.text
    return response.json()["predictions"]


def batcher_of(client, path):
    name = path.rpartition("/")[2]
    return next(b for (m, _), b in client.deployment.batchers.items() if m.name == name)


@contextlib.contextmanager
def held(batcher):
    """A batcher that is busy until the end, with a row that nobody waits for."""
    gate, compute = threading.Event(), batcher.compute
    batcher.compute = lambda jobs: (gate.wait(), compute(jobs))[1]
    like = batching._zeros(batcher.program, 1, None)
    with batcher._changed:
        batcher._waiting.append(batching.Job(like, 1, None, math.inf, _Nobody()))
        batcher._changed.notify()
    until(lambda: not batcher.waiting)
    try:
        yield
    finally:
        del batcher.compute
        gate.set()


class _Nobody:
    """The future, and the loop, of who is no longer there."""

    def get_loop(self):
        return self

    def is_closed(self):
        return True
