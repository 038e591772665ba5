"""A server under load and under attack: batching, the queue, deadlines, floods, and its end.

Seen to fail: a request that got the rows of another, a queue without an end, a client that left and
kept its place, SIGTERM's own exit code, headers without an end, a connection kept by one byte of a
body that was answered, or by answers that nobody reads, and a name of another site.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from serve_fuzz import requests
from serving import DIGITS, LIMITS, ask, batcher_of, held, serving, until
from serving import client as client
from serving import x as x

from jdl.serve import batching


def test_requests_that_wait_are_computed_together(client, x):
    """Each gets its own rows, and the time that it sent."""
    batcher = batcher_of(client, DIGITS)
    expected = [ask(client, x[n : n + 1]) for n in range(8)]
    before = batcher.counts.batches
    with ThreadPoolExecutor(8) as pool, held(batcher):
        answers = [pool.submit(ask, client, x[n : n + 1]) for n in range(8)]
        until(lambda: batcher.waiting == 8)
    assert batcher.counts.batches == before + 3  # that one, and two of four rows
    for answer, alone in zip(answers, expected, strict=True):
        ((row,), (wanted,)) = answer.result(), alone
        assert row["label"] == wanted["label"]
        np.testing.assert_allclose(row["probability"], wanted["probability"], atol=1e-6)


def test_a_batch_that_fails_is_computed_request_by_request(client, x, monkeypatch):
    batcher = batcher_of(client, DIGITS)
    with ThreadPoolExecutor(2) as pool, held(batcher):
        answers = [pool.submit(ask, client, x[n : n + 1]) for n in range(2)]
        until(lambda: batcher.waiting == 2)
        compute = type(batcher).compute

        def failing(self, jobs):
            if len(jobs) > 1:
                raise MemoryError
            return compute(self, jobs)

        monkeypatch.setattr(type(batcher), "compute", failing)
    assert [answer.result() for answer in answers] == [ask(client, x[n : n + 1]) for n in (0, 1)]


def test_a_full_queue_is_503_with_retry_after_and_the_others_are_answered(bundles, x):
    with serving(bundles[:1], queue=3, **LIMITS) as client:
        batcher = batcher_of(client, DIGITS)
        with ThreadPoolExecutor(3) as pool, held(batcher):
            answers = [pool.submit(ask, client, x[:1]) for _ in range(3)]
            until(lambda: batcher.waiting == 3)
            full = client.post(f"{DIGITS}/predict", json={"rows": x[:1].tolist()})
            assert (full.status_code, full.headers["retry-after"]) == (503, "1")
            assert "3 requests wait already" in full.json()["error"]
        assert [len(answer.result()) for answer in answers] == [1] * 3


def test_a_late_answer_is_504_and_a_slow_body_408(bundles, x):
    with serving(bundles[:1], timeout=0.5, **LIMITS) as client:
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


@pytest.mark.parametrize("most", [1, 8, 300])
def test_no_bucket_of_time_exceeds_the_largest(most):
    times = batching.buckets_of_time(most)
    assert times == [n for n in (1, 2, 4, 8, 16, 32, 64, 128, 256) if n < most] + [most]
    assert batching.buckets_of_time(most, 16)[0] == min(most, 16)


def test_health_tells_a_server_that_warms_from_one_that_is_ready(bundles, x, monkeypatch):
    gate = threading.Event()
    warm = batching.Batcher.warm
    monkeypatch.setattr(batching.Batcher, "warm", lambda self: (gate.wait(), warm(self)))
    with serving(bundles[:1], ready=False, **LIMITS) as client:
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


@pytest.mark.slow
def test_sigterm_answers_what_is_in_and_refuses_what_is_new(bundles, x, tmp_path):
    """The process that the verb starts ends with 0."""
    words = ["serve", bundles[0], "--port", "0", "--max-batch", "2", "--wait-ms", "1500"]
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
            for host in ("localhost", "[::1]:8000", "evil.example", "127.0.0.1.evil.example"):
                status = client.get("/v1/models", headers={"Host": host}).status_code
                assert status == (400 if "evil" in host else 200)
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


@pytest.mark.slow
def test_the_containers_command_serves_and_its_health_check_sees_it(bundles, root):
    """The steps of the Dockerfile but for the installation, whose extras must exist."""
    dockerfile = (root / "jdl" / "serve" / "Dockerfile").read_text()
    extras = re.search(r'"\$wheel\[(.*?)\]"', dockerfile)[1].split(",")
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert set(extras) <= project["optional-dependencies"].keys()
    assert dockerfile.index("USER jdl") < dockerfile.index("\nCMD")  # without rights
    command = json.loads(re.search(r"^CMD (.*)$", dockerfile, re.M)[1])
    health = re.search(r'CMD python -c \\\n +"(.*)"', dockerfile)[1]
    assert command[:3] == ["jdl", "serve", "/model"]
    words = ["-m", "jdl", "serve", bundles[0], *command[3:], "--port", "0"]
    server = subprocess.Popen(
        [sys.executable, *map(str, words)],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        port = re.match(
            r"http://[^:]*:(\d+)", (server.stdout.readline(), server.stdout.readline())[1]
        )[1]
        check = [sys.executable, "-c", health.replace("8000", port)]
        until(lambda: not subprocess.run(check, capture_output=True).returncode)
    finally:
        server.kill()
        server.wait()
    assert subprocess.run(check, capture_output=True).returncode


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


@pytest.mark.nightly
def test_thousands_of_requests_leave_the_memory_flat(client, x):
    fuzzed(client, x, 1_000, 1)
    before = memory()
    fuzzed(client, x, 5_000, 2)
    assert memory() < before + 30_000_000
    assert client.deployment.memory.used == 0


def memory():
    """The bytes that this process has in memory."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def test_headers_without_end_are_cut_off(client, x, monkeypatch):
    monkeypatch.setattr("jdl.serve.server.HEADER_SECONDS", 600)
    for line in (b"A: " + b"a" * 1000 + b"\r\n", b"a" * 1000):
        with (
            socket.create_connection(client.address, timeout=30) as sender,
            contextlib.suppress(ConnectionError),
        ):
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


def test_a_body_that_is_answered_early_must_still_end(client, monkeypatch):
    """One byte of it and no more, or all of it and no next request, or blank lines."""
    monkeypatch.setattr("jdl.serve.server.HEADER_SECONDS", 0.3)
    head = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 40000\r\n\r\n"
    for rest in (b"[", bytes(40_000), b"\r\n"):
        with socket.create_connection(client.address, timeout=3) as sender:
            sender.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" if rest == b"\r\n" else head)
            assert sender.recv(1000)[:12] in (b"HTTP/1.1 404", b"HTTP/1.1 200")
            sender.sendall(rest)
            until(lambda sender=sender: sender.recv(1000) == b"", 3)


def ask_on(sender):
    """Asks for more answers than the system buffers."""
    for _ in range(3_000):
        sender.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.001)


def test_a_client_that_does_not_read_is_dropped(client, monkeypatch):
    monkeypatch.setattr("jdl.serve.server.READ_SECONDS", 0.2)
    monkeypatch.setattr("jdl.serve.server.HEADER_SECONDS", 600)
    with socket.socket() as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sender.settimeout(10)
        sender.connect(client.address)
        with pytest.raises(ConnectionError):
            ask_on(sender)
