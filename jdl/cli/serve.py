"""`jdl serve`: exported models over HTTP."""

import logging
import sys
from pathlib import Path
from typing import Annotated

import tyro


def serve(
    folders: Annotated[
        list[Path],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="DIR", help="Folders that `jdl export` wrote."),
    ],
    host: Annotated[
        str, tyro.conf.arg(help="Address to bind; 0.0.0.0 is every one.")
    ] = "127.0.0.1",
    port: Annotated[int, tyro.conf.arg(help="Port; 0 takes a free one.")] = 8000,
    token_file: Annotated[
        Path | None, tyro.conf.arg(help="File of a bearer token that clients must have.")
    ] = None,
    max_batch: Annotated[int, tyro.conf.arg(help="Rows computed at once.")] = 64,
    queue: Annotated[int, tyro.conf.arg(help="Requests that wait; more are answered 503.")] = 256,
    wait_ms: Annotated[float, tyro.conf.arg(help="Wait for a fuller batch, milliseconds.")] = 0.0,
    timeout: Annotated[float, tyro.conf.arg(help="Seconds that a request may take.")] = 30.0,
    max_rows: Annotated[int, tyro.conf.arg(help="Rows of a request.")] = 1024,
    max_body: Annotated[int, tyro.conf.arg(help="Bytes of a request.")] = 16 << 20,
    max_memory: Annotated[
        int, tyro.conf.arg(help="Bytes of all requests that are read or wait.")
    ] = 256 << 20,
    slots: Annotated[int, tyro.conf.arg(help="Texts that a language model writes at once.")] = 8,
    max_new_tokens: Annotated[int, tyro.conf.arg(help="Tokens of a text.")] = 4096,
    generation_timeout: Annotated[float, tyro.conf.arg(help="Seconds that a text may take.")] = 300,
) -> None:
    """Serve exported models over HTTP: predictions, health, metrics, and a page to try them."""
    from jdl.cli.startup import set_up_jax
    from jdl.types import Error

    try:
        import jdl.serve
        from jdl.serve.server import run
    except ModuleNotFoundError as error:
        raise Error(f"Serving needs {error.name}: pip install 'jdl[serve]'.") from error
    limits = jdl.serve.Limits(
        max_batch=max_batch,
        queue=queue,
        wait_ms=wait_ms,
        timeout=timeout,
        max_rows=max_rows,
        max_body=max_body,
        max_memory=max_memory,
        slots=slots,
        max_new_tokens=max_new_tokens,
        generation_timeout=generation_timeout,
    )
    token = _token(token_file)
    set_up_jax()
    _log_to_stderr()
    application = jdl.serve.app(folders, limits, token)
    for model in application.state.deployment.models.models:
        print(f"serving {model.name} of {model.folder}, version {model.version}", flush=True)
    run(application, host, port, token is not None)


def _log_to_stderr() -> None:
    """The server's own lines, as they are."""
    log = logging.getLogger("jdl.serve")
    log.setLevel(logging.INFO)
    log.addHandler(logging.StreamHandler(sys.stderr))
    log.propagate = False


def _token(path: Path | None) -> str | None:
    """The token in a file; `Error` where it is empty or no ASCII."""
    from jdl.types import Error

    if path is None:
        return None
    try:
        token = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Error(f"The token file {path} cannot be read: {error}.") from error
    if len(token) < 16 or " " in token:
        raise Error(f"{path} must have a token of 16 characters or more, without spaces.")
    return token
