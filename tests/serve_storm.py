"""Storms on `jdl serve`: requests as no client should send them, and clients killed under load.

    scripts/storm_serve fuzz -n 100000
    scripts/storm_serve kill --minutes 10

The server is a process of its own, with a CNN of digits, an LSTM of texts and a small GPT. Ends
with code 1 where an answer is a 500, is not what the run predicts, or the server's memory grows.
"""

import argparse
import contextlib
import http.client
import itertools
import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from urllib.parse import quote

from serve_fuzz import requests

CLIENTS = 4
DIGITS, TEXT = "/v1/models/kitchen_sink/predict", "/v1/models/talk/generate"
LIMITS = ("--max-body", "100000", "--max-rows", "20", "--max-batch", "8", "--timeout", "10")
FLAT = 30_000_000  # bytes that the server's memory may grow: the allocator's own
TOLERANCE = 1e-5  # of a probability: rows in batches of other sizes differ by rounding
FORK, SPAWN = map(multiprocessing.get_context, ("fork", "spawn"))


def prepare(root):
    """Trains and exports the models; writes the good requests with the runs' own answers."""
    import numpy as np
    from language_models import export_talk
    from serving import export_small

    import jdl
    from jdl.data import ByteTokenizer

    export_small(root)
    _, talk = export_talk(root)
    x = np.asarray(jdl.data.digits()[1].columns["x"][:32], np.float32)
    np.savez(root / "x.npz", x=x)
    (run,) = (root / "runs" / "kitchen_sink").glob("*/seed*")
    answers = jdl.inspect.predict.predict(jdl.restore(run), [root / "x.npz"])
    good = [
        (
            DIGITS,
            {"rows": [row.tolist()]},
            [answer["label"], np.ravel(answer["probability"]).tolist()],
        )
        for row, answer in zip(x, answers, strict=True)
    ]
    for prompt in ("abc", "hello", "what is"):
        tokens = np.asarray([256, *ByteTokenizer().encode(prompt)], np.int32)
        found = jdl.sampling.stream(talk.objective, talk.variables, tokens, 20, eos_id=256)
        body = {"prompt": prompt, "max_new_tokens": 20, "temperature": 0}
        good.append((TEXT, body, list(map(int, found))))
    (root / "good.json").write_text(json.dumps(good))


def serve(root):
    """The server's process, and its address once it is ready."""
    folders = [str(root / name) for name in ("digits", "words", "talk")]
    code = "import jdl.cli; jdl.cli.main()"
    server = subprocess.Popen(
        [sys.executable, "-c", code, "serve", *folders, "--port", "0", *LIMITS],
        stdout=subprocess.PIPE,
        text=True,
    )
    where = next(line for line in server.stdout if line.startswith("http"))
    host, port = where.split()[0].removeprefix("http://").rstrip("/").split(":")
    while ask(host, port, "GET", "/readyz")[0] != 200:
        time.sleep(0.1)
    return server, host, int(port)


def ask(host, port, method, path, headers=(), body=b""):
    """The status and body of one request, on a connection of its own."""
    connection = http.client.HTTPConnection(host, port, timeout=120)
    try:
        connection.request(method, quote(path, safe="/%."), body, dict(headers))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def is_right(host, port, good):
    """Whether a good request is answered as the run itself answers."""
    path, body, expected = good
    status, answer = ask(host, port, "POST", path, body=json.dumps(body).encode())
    if status == 503:  # the server is full, and says so
        return None
    assert status == 200, (path, status, answer[:300])
    if path == TEXT:
        return json.loads(answer)["tokens"] == expected
    (row,) = json.loads(answer)["predictions"]
    label, probability = expected
    found = row["probability"] if isinstance(row["probability"], list) else [row["probability"]]
    near = all(abs(a - b) < TOLERANCE for a, b in zip(found, probability, strict=True))
    return row["label"] == label and near


def fuzz(host, port, good, seed, count, results):
    """Sends bad requests; each hundredth is a good one, a slow sender, or a flood of headers."""
    statuses = Counter()
    for n, (method, path, headers, body) in zip(range(count), requests(seed), strict=False):
        status, answer = ask(host, port, method, path, headers.items(), body)
        if status >= 500 and status != 503:
            results.put((method, path, str(headers), str(body[:300]), str(answer[:300])))
        statuses[status] += 1
        if n % 100 == 0 and is_right(host, port, good[n // 100 % len(good)]) is False:
            results.put(("a good request was answered otherwise", path))
        if n % 100 == 50:
            flood(host, port)
    results.put(statuses)


def flood(host, port):
    """A client that leaves in the middle of its body, and one whose headers do not end."""
    for rest in (b"Content-Length: 1000\r\n\r\n[", b"A: " + b"a" * 200_000):
        with (
            socket.create_connection((host, port)) as sender,
            contextlib.suppress(ConnectionError),  # the server cuts the second off
        ):
            sender.sendall(f"POST {DIGITS} HTTP/1.1\r\nHost: localhost\r\n".encode() + rest)


def load(host, port, good, seed, results):
    """Asks good requests without end."""
    draw = random.Random(seed)
    while True:
        request = draw.choice(good[:-3] if draw.random() < 0.7 else good[-3:])
        results.put({True: "right", False: "wrong", None: "full"}[is_right(host, port, request)])


def memory(server):
    """The bytes that the server has in memory."""
    pages = Path(f"/proc/{server.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def storm_fuzz(server, host, port, good, count):
    """The statuses, and what went wrong, of so many bad requests by four clients at once."""
    statuses, wrong, sizes = Counter(), [], []
    for part, share in enumerate([count // 20] + [count // 20 * 19 // 4] * 4):
        results = FORK.Queue()
        clients = [
            FORK.Process(target=fuzz, args=(host, port, good, 100 * part + n, share // 4, results))
            for n in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        ended = 0
        while ended < CLIENTS:
            found = results.get()
            if isinstance(found, Counter):
                statuses, ended = statuses + found, ended + 1
            else:
                wrong.append(found)
        sizes.append(memory(server))
        print(f"{sum(statuses.values()):,} requests, {sizes[-1] / 1e6:.0f} MB", flush=True)
    return statuses, wrong, sizes


def storm_kill(server, host, port, good, minutes):
    """The answers, and what went wrong, while a client of eight is killed five times a second."""
    seeds, draw = itertools.count(), random.Random(0)

    def start():
        queue = FORK.SimpleQueue()  # its own: who is killed may hold the lock of one
        client = FORK.Process(target=load, args=(host, port, good, next(seeds), queue), daemon=True)
        client.start()
        return client, queue

    clients, answers, sizes, kills = [start() for _ in range(8)], Counter(), [], 0
    begin = minute = time.monotonic()
    while time.monotonic() < begin + 60 * minutes:
        time.sleep(0.2)
        for _, queue in clients:
            while not queue.empty():
                answers[queue.get()] += 1
        at = draw.randrange(len(clients))
        os.kill(clients[at][0].pid, signal.SIGKILL)
        clients[at][0].join()
        clients[at], kills = start(), kills + 1
        if time.monotonic() > minute:
            minute += 60
            sizes.append(memory(server))
            print(f"{dict(answers)}, {kills} killed, {sizes[-1] / 1e6:.0f} MB", flush=True)
    for client, _ in clients:
        client.kill()
        client.join()
    wrong = [f"{answers['wrong']} wrong answers"] if answers["wrong"] else []
    return answers + Counter(killed=kills), wrong, [*sizes[1:], memory(server)]


def stuck(host, port):
    """The lines of /metrics that say that a slot or the queue is not empty, 5 s after the end."""
    time.sleep(5)
    lines = ask(host, port, "GET", "/metrics")[1].decode().splitlines()
    gauges = [line for line in lines if "waiting" in line or "running" in line]
    return [line for line in gauges if not line.startswith("#") and float(line.split()[-1]) > 0]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("storm", choices=["fuzz", "kill"])
    parser.add_argument("-n", type=int, default=100_000, help="bad requests")
    parser.add_argument("--minutes", type=float, default=10)
    c = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        trainer = SPAWN.Process(target=prepare, args=(root,))
        trainer.start()
        trainer.join()
        good = json.loads((root / "good.json").read_text())
        server, host, port = serve(root)
        try:
            start = time.monotonic()
            for request in good * 3:
                assert is_right(host, port, request), request
            arguments = server, host, port, good
            found, wrong, sizes = (
                storm_fuzz(*arguments, c.n)
                if c.storm == "fuzz"
                else storm_kill(*arguments, c.minutes)
            )
            seconds, grown = time.monotonic() - start, max(sizes) - sizes[0]
            wrong += stuck(host, port)
            wrong += [request for request in good if not is_right(host, port, request)]
            wrong += [f"the memory grew by {grown:,} bytes"] if grown > FLAT else []
        finally:
            server.send_signal(signal.SIGTERM)
        wrong += [f"the server ended with {code}"] if (code := server.wait(90)) else []
    print(
        f"{dict(sorted(found.items(), key=str))} in {seconds:.0f} s, memory {grown / 1e6:+.1f} MB"
    )
    print(*wrong, sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
