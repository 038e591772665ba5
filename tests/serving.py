"""How tests serve: a server of its own in a thread, with a client, at a free port."""

import contextlib
import threading
import time

import httpx
import uvicorn

import jdl.serve
from jdl.serve.server import Protocol


@contextlib.contextmanager
def serving(folders, token=None, ready=True, **limits):
    """A client of a server of exported models; `client.deployment` is what the server has."""
    application = jdl.serve.app(folders, jdl.serve.Limits(**limits), token)
    config = uvicorn.Config(
        application, port=0, http=Protocol, ws="none", access_log=False, log_level="error"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        host, port = server.servers[0].sockets[0].getsockname()
        with httpx.Client(base_url=f"http://{host}:{port}", timeout=60, trust_env=False) as client:
            client.deployment, client.address = application.state.deployment, (host, port)
            if ready:
                until(lambda: client.get("/readyz").status_code == 200)
            yield client
    finally:
        server.should_exit = True
        thread.join()


def until(condition, seconds=60):
    """Waits until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
