"""Requests a second of `jdl serve`, beside a FastAPI that one writes by hand around PyTorch.

Both serve a CNN of the shapes of experiments/digits_cnn.py, with random weights, one row a request.
Clients are connections that each ask again as soon as they are answered, in this process. The
servers take turns. Printed: the medians over the rounds.

    scripts/bench serve [PYTHON]

PYTHON is an interpreter that has torch, fastapi, uvicorn, httptools and uvloop.
"""

import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import optax

import jdl
from jdl.models.cnn import CNN

CLIENTS, ROUNDS, SECONDS = (1, 8, 64, 400), 5, 2.0
PORTS = {"jdl": 8311, "torch": 8312}
PATHS = {"jdl": "/v1/models/served/predict", "torch": "/predict"}
BODY = json.dumps({"rows": np.random.default_rng(0).random((1, 8, 8, 1)).round(4).tolist()})


def exported(folder):
    """An exported CNN that was trained for one step."""
    train, test = jdl.data.digits()
    model = CNN(10, ((32, 2), (64, 2)), dense=(), batch_norm=True)
    learner = jdl.descent(jdl.objectives.classify(model), optax.sgd(0.1))
    run = jdl.Run(
        jdl.Config(name="served", steps=1),
        learner,
        train.shuffled(128, 0),
        test=test.batches(128),
        labels=train.labels,
    )
    trained = jdl.fit(run, jdl.Options(root=folder / "runs", quiet=True))
    return jdl.export.export(trained.folder, folder / "served", run=run)


@contextmanager
def server(name, words):
    """A server in a process of its own, when it is ready."""
    process = subprocess.Popen(list(map(str, words)), env={**os.environ, "JAX_PLATFORMS": "cpu"})
    try:
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{PORTS[name]}/readyz"):
                    break
            except OSError:  # not yet
                assert process.poll() is None, f"{name} has ended"
                time.sleep(0.2)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


async def client(name, end, seconds):
    """Asks until the end; the seconds of each answer are added."""
    reader, writer = await asyncio.open_connection("127.0.0.1", PORTS[name])
    request = (
        f"POST {PATHS[name]} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(BODY)}\r\n\r\n{BODY}"
    ).encode()
    while (start := time.perf_counter()) < end:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(length))
        seconds.append(time.perf_counter() - start)
    writer.close()


async def measure(name, clients, process):
    """Requests a second, median and 99th percentile of an answer's ms, the server's CPU ms each."""
    seconds, start, cpu = [], time.perf_counter(), cpu_seconds(process)
    await asyncio.gather(*(client(name, start + SECONDS, seconds) for _ in range(clients)))
    took = time.perf_counter() - start
    p50, p99 = (float(np.quantile(seconds, q)) * 1e3 for q in (0.5, 0.99))
    return len(seconds) / took, p50, p99, (cpu_seconds(process) - cpu) * 1e3 / len(seconds)


def cpu_seconds(process):
    """The time that a process has computed so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(python=""):
    """Measures both servers."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        here = Path(__file__).parent
        code = "import jdl.cli; jdl.cli.main()"
        words = {"jdl": [sys.executable, "-c", code, "serve", exported(Path(folder))]}
        words["jdl"] += ["--port", PORTS["jdl"], "--queue", max(CLIENTS)]
        if python:
            words["torch"] = [python, here / "bench_serve_torch.py", PORTS["torch"]]
        processes = {
            name: stack.enter_context(server(name, command)) for name, command in words.items()
        }
        for name, process in processes.items():
            asyncio.run(measure(name, 8, process))
        print("clients  server  requests/s   p50 ms   p99 ms  CPU ms   ratio")
        for clients in CLIENTS:
            found = {name: [] for name in words}
            for _ in range(ROUNDS):
                for name, process in processes.items():
                    found[name].append(asyncio.run(measure(name, clients, process)))
            medians = {
                name: [statistics.median(column) for column in zip(*rows, strict=True)]
                for name, rows in found.items()
            }
            for name, (rate, p50, p99, cpu) in medians.items():
                ratio = rate / medians.get("torch", medians["jdl"])[0]
                line = f"{clients:7} {name:>7} {rate:11.0f} {p50:8.2f} {p99:8.2f} {cpu:7.2f}"
                print(f"{line} {ratio:7.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
