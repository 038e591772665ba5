"""The server of exported models: answers, batching, the queue, deadlines, health and its end.

Seen to fail: TODO
"""

import contextlib
import io
import json
import math
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import optax
import pytest
from harness import train
from PIL import Image
from serve_fuzz import requests
from serving import serving, until

import jdl
import jdl.serve
from jdl.models.rnn import RNN
from jdl.serve import batching

DIGITS, WORDS = "/v1/models/kitchen_sink", "/v1/models/words"
LIMITS = {"max_batch": 4, "max_rows": 20, "max_body": 100_000, "max_memory": 2_000_000}


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


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The exported models of digits and of texts."""
    root = tmp_path_factory.mktemp("serve")
    digits = jdl.export.export(train(root / "runs", steps=2).folder, root / "digits")
    run, folder = words(root / "runs")
    return digits, jdl.export.export(folder, root / "words", run=run)


@pytest.fixture(scope="module")
def client(folders):
    with serving(folders, **LIMITS) as client:
        yield client


@pytest.fixture(scope="module")
def x():
    return np.asarray(jdl.data.digits()[1].columns["x"][:8], np.float32)


def ask(client, x, path=f"{DIGITS}/predict"):
    """The predictions for rows."""
    response = client.post(path, json={"rows": np.asarray(x).tolist()})
    assert response.status_code == 200, response.text
    return response.json()["predictions"]


def test_answers_are_those_of_the_bundles_own_script(client, folders, x):
    """To the bit, in the same bucket."""
    _, predict = runpy.run_path(str(folders[0] / "predict.py"))["load"](folders[0])
    for rows in (1, 3, 4):
        expected = predict({"x": x[:rows]})
        found = ask(client, x[:rows])
        for name, values in expected.items():
            assert [row[name] for row in found] == np.asarray(values).tolist()
    whole = ask(client, x)  # in two batches of four
    assert whole == ask(client, x[:4]) + ask(client, x[4:])


def test_every_form_of_the_same_rows_is_answered_alike(client, x):
    expected = ask(client, x[:2])
    file = io.BytesIO()
    np.save(file, x[:2])
    for content, kind in (
        ({"columns": {"x": x[:2].tolist()}}, None),
        ({"rows": [{"x": row} for row in x[:2].tolist()]}, None),
        (file.getvalue(), "application/x-npy"),
    ):
        body = content if kind else json.dumps(content).encode()
        headers = {"Content-Type": kind or "application/json"}
        response = client.post(f"{DIGITS}/predict", content=body, headers=headers)
        assert response.json()["predictions"] == expected


def test_an_image_is_read_as_in_training(client, x):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8)).astype(np.uint8)
    response = client.post(
        f"{DIGITS}/predict", content=png(pixels), headers={"Content-Type": "image/png"}
    )
    numbers = (pixels * np.float32(1 / 255))[None, ..., None]
    assert response.json()["predictions"] == ask(client, numbers)
    larger = png(np.zeros((9, 8), np.uint8))
    response = client.post(
        f"{DIGITS}/predict", content=larger, headers={"Content-Type": "image/png"}
    )
    assert response.status_code == 422
    assert "has 8 x 9 pixels, and the model reads 8 x 8" in response.json()["error"]


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_texts_are_encoded_as_the_bundle_does(client, folders):
    names = runpy.run_path(str(folders[1] / "predict.py"))
    manifest, predict = names["load"](folders[1])
    about = manifest["programs"]["predict"]["inputs"]
    columns = names["encode"](["fine", "so"], manifest["tokenizer"], about)
    columns = {name: np.asarray(column, np.int32) for name, column in columns.items()}
    columns["x"] = np.pad(columns["x"], ((0, 0), (0, 8 - columns["x"].shape[1])))  # the bucket
    expected = predict(columns)
    response = client.post(f"{WORDS}/predict", json={"texts": ["fine", "so"]})
    found = response.json()["predictions"]
    assert [row["probability"] for row in found] == expected["probability"].tolist()
    assert [row["label"] for row in found] == [manifest["labels"][k] for k in expected["label"]]
    alone = client.post(f"{WORDS}/predict", content="fine", headers={"Content-Type": "text/plain"})
    assert alone.json()["predictions"][0]["label"] == found[0]["label"]
    long = client.post(f"{WORDS}/predict", json={"texts": ["much too long"]})
    assert (long.status_code, long.json()) == (
        422,
        {"error": "A row of x has the time 14, and at most 8 fit."},
    )


def test_requests_that_wait_are_computed_together(client, x):
    """Each gets its own rows, and the time that it sent."""
    batcher = batcher_of(client, DIGITS)
    expected = [ask(client, x[n : n + 1]) for n in range(8)]
    before = batcher.done.batches
    with ThreadPoolExecutor(8) as pool, held(batcher):
        answers = [pool.submit(ask, client, x[n : n + 1]) for n in range(8)]
        until(lambda: batcher.waiting == 8)
    assert batcher.done.batches == before + 3  # that one, and two of four rows
    for answer, alone in zip(answers, expected, strict=True):
        ((row,), (wanted,)) = answer.result(), alone
        assert row["label"] == wanted["label"]
        np.testing.assert_allclose(row["probability"], wanted["probability"], atol=1e-6)


def batcher_of(client, path):
    name = path.rpartition("/")[2]
    return next(b for model, b in client.deployment.batchers.items() if model.name == name)


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


def test_a_full_queue_is_503_with_retry_after_and_the_others_are_answered(folders, x):
    with serving(folders[:1], queue=3, **LIMITS) as client:
        batcher = batcher_of(client, DIGITS)
        with ThreadPoolExecutor(3) as pool, held(batcher):
            answers = [pool.submit(ask, client, x[:1]) for _ in range(3)]
            until(lambda: batcher.waiting == 3)
            full = client.post(f"{DIGITS}/predict", json={"rows": x[:1].tolist()})
            assert (full.status_code, full.headers["retry-after"]) == (503, "1")
            assert "3 requests wait already" in full.json()["error"]
        assert [len(answer.result()) for answer in answers] == [1] * 3


def test_a_late_answer_is_504_and_a_slow_body_408(folders, x):
    with serving(folders[:1], timeout=0.5, **LIMITS) as client:
        batcher = batcher_of(client, DIGITS)
        with held(batcher):
            late = client.post(f"{DIGITS}/predict", json={"rows": x[:1].tolist()})
            assert late.status_code == 504
            assert batcher.waiting == 0
        with socket.create_connection(client.address) as sender:
            head = f"POST {DIGITS}/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n["
            sender.sendall(head.encode())
            assert sender.recv(1000).startswith(b"HTTP/1.1 408 ")
        assert client.deployment.memory.used == 0


def test_a_client_that_leaves_frees_its_place(client, x):
    batcher = batcher_of(client, DIGITS)
    body = json.dumps({"rows": x[:1].tolist()}).encode()
    head = f"POST {DIGITS}/predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with held(batcher):
        with socket.create_connection(client.address) as sender:
            sender.sendall(head.encode() + body)
            until(lambda: batcher.waiting == 1)
        until(lambda: batcher.waiting == 0)
    until(lambda: client.deployment.memory.used == 0)


def test_health_tells_a_server_that_warms_from_one_that_is_ready(folders, x, monkeypatch):
    gate = threading.Event()
    warm = batching.Batcher.warm
    monkeypatch.setattr(batching.Batcher, "warm", lambda self: (gate.wait(), warm(self)))
    with serving(folders[:1], ready=False, **LIMITS) as client:
        assert client.get("/healthz").json() == {"state": "warming"}
        for path in ("/readyz", "/v2/health/ready"):
            assert client.get(path).status_code in (503, 404)
        early = client.post(f"{DIGITS}/predict", json={"rows": x[:1].tolist()})
        assert (early.status_code, early.headers["retry-after"]) == (503, "1")
        gate.set()
        until(lambda: client.get("/readyz").status_code == 200)
        model = client.deployment.models.models[0]
        compiled = model.programs["predict"].call._cache_size()
        assert compiled == 3  # for 1, 2 and 4 rows
        for rows in range(1, 9):
            ask(client, x[:rows])
        assert model.programs["predict"].call._cache_size() == compiled


def test_metrics_are_those_of_prometheus(client, x):
    from prometheus_client.parser import text_string_to_metric_families as parse

    ask(client, x[:3])
    found = {
        sample.name: sample.value
        for family in parse(client.get("/metrics").text)
        for sample in family.samples
        if sample.labels.get("model", "kitchen_sink") == "kitchen_sink"
    }
    assert found["jdl_ready"] == 1
    assert found["jdl_rows_total"] >= 3
    assert found["jdl_padding_total"] >= 1
    assert found["jdl_request_seconds_count"] >= 1


def test_versions_live_side_by_side(client, folders, tmp_path, x):
    copy = tmp_path / "older"
    copy.mkdir()
    for path in folders[0].iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "description": "older"}))
    models = jdl.serve.models.load_models([folders[0], copy])
    new, old = models.models
    assert models.find("kitchen_sink") is new
    assert models.find("kitchen_sink", old.version) is models.find("kitchen_sink", "older") is old
    with pytest.raises(jdl.Error, match="are the same model"):
        jdl.serve.models.load_models([folders[0], folders[0]])
    (copy / "README.md").write_text("another")
    with pytest.raises(jdl.Error, match=r"not served, as README\.md has changed"):
        jdl.serve.app([copy])
    about = client.get(DIGITS).json()
    assert about["versions"] == [new.version]
    assert ask(client, x[:1], f"{DIGITS}/versions/{new.version}/predict") == ask(client, x[:1])
    missing = client.post(f"{DIGITS}/versions/0/predict", json={"rows": []})
    assert (missing.status_code, "no version '0'" in missing.json()["error"]) == (404, True)


def test_a_token_is_asked_for_where_there_is_one(folders, x):
    with serving(folders[:1], token="correct horse battery", **LIMITS) as client:
        assert client.get("/healthz").status_code == 200
        for header in (None, "Bearer correct horse batter", "Basic correct horse battery", "é"):
            headers = {"Authorization": header.encode()} if header else {}
            for path in ("/v1/models", "/metrics", "/openapi.json", "/nowhere"):
                assert client.get(path, headers=headers).status_code == 401
        allowed = client.get(
            "/v1/models", headers={"Authorization": "Bearer correct horse battery"}
        )
        assert allowed.json()["models"][0]["name"] == "kitchen_sink"


def test_the_schema_names_every_route(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/models", "/v1/models/{name}/predict", "/healthz", "/readyz"} <= set(paths)
    assert "image/png" in paths["/v1/models/{name}/predict"]["post"]["requestBody"]["content"]


def test_sigterm_answers_what_is_in_and_refuses_what_is_new(folders, x, tmp_path):
    """The process that the verb starts ends with 0."""
    words = ["serve", folders[0], "--port", "0", "--max-batch", "2", "--wait-ms", "1500"]
    code = "import jdl.cli; jdl.cli.main()"
    server = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        serves, where = server.stdout.readline(), server.stdout.readline()
        assert serves.startswith("serving kitchen_sink of ")
        assert "takes requests of this machine alone" in where
        with httpx.Client(base_url=where.split()[0], timeout=60, trust_env=False) as client:
            until(lambda: client.get("/readyz").status_code == 200)
            with ThreadPoolExecutor(1) as pool:
                answer = pool.submit(ask, client, x[:1])
                time.sleep(0.5)
                server.send_signal(signal.SIGTERM)
                time.sleep(0.3)
                with pytest.raises(httpx.TransportError):
                    httpx.get(f"{where.split()[0]}/healthz", trust_env=False)
                assert len(answer.result()) == 1
        assert server.wait(30) == 0
    finally:
        server.kill()


def fuzzed(client, x, count, seed):
    """The statuses of so many requests; each is answered as it should, and none harms another."""
    expected, statuses = ask(client, x[:1]), Counter()
    for n, (method, path, headers, body) in zip(range(count), requests(seed), strict=False):
        response = client.request(method, path, headers=headers, content=body)
        status = response.status_code
        assert status < 500 or status == 503, (n, method, path, headers, body[:500], response.text)
        if status >= 400 and method != "HEAD":
            assert isinstance(response.json()["error"], str), (n, response.text)
        statuses[status] += 1
        if n % 100 == 0:
            assert ask(client, x[:1]) == expected
    return statuses


def test_no_request_is_answered_500(client, x):
    statuses = fuzzed(client, x, 400, 0)
    assert {200, 400, 404, 405, 415, 422} <= set(statuses)
    assert client.deployment.memory.used == 0


def test_a_body_that_is_too_long_is_413_whatever_its_header_says(client):
    for content in (bytes(100_001), iter([bytes(50_000)] * 3)):  # the second has no length
        response = client.post(f"{DIGITS}/predict", content=content)
        assert response.status_code == 413
        assert response.json()["error"] == "A body has at most 100,000 bytes."


@pytest.mark.slow
def test_100_000_requests_leave_the_memory_flat(client, x):
    fuzzed(client, x, 5_000, 1)
    before = memory()
    fuzzed(client, x, 100_000, 2)
    assert memory() < before + 100_000_000
    assert client.deployment.memory.used == 0


def memory():
    """The bytes that this process has in memory."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def test_headers_without_end_are_cut_off(client, x):
    for line in (b"A: " + b"a" * 1000 + b"\r\n", b"a" * 1000):
        with socket.create_connection(client.address) as sender, contextlib.suppress(OSError):
            sender.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
            for _ in range(5_000):
                sender.sendall(line)
            assert sender.recv(1000)[:12] in (b"", b"HTTP/1.1 400")
    assert len(ask(client, x[:1])) == 1


def test_headers_that_come_slowly_are_cut_off(client, monkeypatch):
    monkeypatch.setattr("jdl.serve.server.HEADER_SECONDS", 0.2)
    with socket.create_connection(client.address) as sender:
        sender.sendall(b"GET /healthz HTTP/1.1\r\nHo")
        assert sender.recv(1000) == b""
    with socket.create_connection(client.address) as sender:  # the second request of a connection
        sender.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        until(lambda: b'"ready"' in sender.recv(1000))
        sender.sendall(b"GET /healthz HTTP/1.1\r\nHo")
        assert sender.recv(1000) == b""
