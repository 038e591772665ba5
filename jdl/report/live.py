"""The live report: a page on this machine that follows runs as they train (server-sent events)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from jdl.report.costs import check_watts
from jdl.report.curves import curves_json, points_json, series
from jdl.report.document import Document, Section, counted
from jdl.report.groups import Group, read_groups, records
from jdl.report.html import html
from jdl.report.rebuilt import Rebuilt
from jdl.report.sections import document
from jdl.report.write import rebuilt_runs
from jdl.serve.server import run
from jdl.store.catalog import choosing_split, status
from jdl.store.log import parse
from jdl.types import Error

HOST = "127.0.0.1"
SECONDS = 1.0  # between two looks at the runs' files
POINTS = 40_000  # of all curves in one event
MOST, FEWEST = 1_000, 40  # points of a curve in one event
DRAIN_SECONDS = 1  # a page that follows never ends by itself


@dataclass
class Growing:
    """The metrics of a run, read on from where they were read to."""

    folder: Path
    group: str
    name: str
    record: dict[str, Any]
    start: int = 0  # increased where the file was written anew, by a run that resumed
    offset: int = 0
    file: int = 0  # its inode
    damaged: int = 0  # lines that are none of a log
    found: dict[tuple[str, str], tuple[list, list]] = field(default_factory=dict)

    def read(self) -> None:
        """Reads the lines that are new; all of them, where the file is another."""
        path = self.folder / "metrics.jsonl"
        try:
            with path.open("rb") as log:
                about = path.stat()
                if about.st_ino != self.file or about.st_size < self.offset:
                    self.start, self.offset = self.start + 1, 0
                    self.file, self.found, self.damaged = about.st_ino, {}, 0
                log.seek(self.offset)
                whole, end, _ = log.read().rpartition(b"\n")
        except FileNotFoundError:
            return
        self.offset += len(whole) + len(end)
        lines = [parse(line) for line in whole.splitlines()]
        self.damaged += lines.count(None)
        for key, (steps, values) in series(line for line in lines if line).items():
            before = self.found.setdefault(key, ([], []))
            before[0].extend(steps)
            before[1].extend(values)

    def progress(self) -> list[str]:
        """The row of the run in the table: name, status, step, best value."""
        step, total = self.step, self.record["config"]["steps"]
        mode, metric = self.record["best"].split()
        chosen = choosing_split(split for split, name in self.found if name == metric)
        values = [x for x in self.found.get((chosen, metric), ((), ()))[1] if np.isfinite(x)]
        best = (
            f"{chosen} {metric} {(max if mode == 'max' else min)(values):#.4g}" if values else "–"
        )
        shown = status(self.folder, step, total)
        if self.damaged:
            shown += f", {counted(self.damaged, 'line')} of its log damaged"
        return [f"{self.group}, {self.name}", shown, f"{step:,} of {total:,}", best]

    @property
    def step(self) -> int:
        """The last step that was logged."""
        return max((steps[-1] for steps, _ in self.found.values()), default=0)


@dataclass(frozen=True)
class Follower:
    """What one page has been sent: of each curve its start and its number of points."""

    version: str = ""  # of the runs that the page is of
    sent: dict[tuple[Any, ...], tuple[int, int]] = field(default_factory=dict)

    def news(self, runs: Sequence[Growing]) -> list[dict[str, Any]]:
        """What the page lacks, downsampled."""
        lacking = []
        for one in runs:
            for key, (steps, _) in one.found.items():
                start, count = self.sent.get((one.folder, *key), (0, 0))
                again = start != one.start
                if again or len(steps) > count:
                    lacking.append((one, key, 0 if again else count, again))
        points = min(MOST, max(FEWEST, POINTS // max(1, len(lacking))))
        return [self._part(*part, points) for part in lacking]

    def _part(
        self, one: Growing, key: tuple[str, str], count: int, again: bool, points: int
    ) -> dict[str, Any]:
        steps, values = (np.array(many[count:]) for many in one.found[key])
        self.sent[one.folder, *key] = (one.start, count + len(steps))
        about = {"group": one.group, "run": one.name, "split": key[0], "metric": key[1]}
        return {**about, "reset": again, **points_json(steps, values, points)}


class Live:
    """The runs that are followed, for all pages together."""

    def __init__(
        self, names: Sequence[str], root: Path, rebuild: bool, watts: float | None
    ) -> None:
        check_watts(watts)
        self.names, self.root, self.watts = names, root, watts
        self._lock, self.version, self.runs = threading.Lock(), "", list[Growing]()
        self.rebuilt: dict[str, Rebuilt] = rebuilt_runs(self._find()[0], rebuild)

    def _version(self) -> str:
        """A digest of the runs' records: another one where runs came, went or were mended."""
        places = [self.root, *map(Path, self.names)]
        paths = {path for place in places for path in records(place)}
        changed = []
        for path in sorted(paths):
            with suppress(FileNotFoundError):
                changed.append(f"{path} {path.stat().st_mtime_ns}")
        return hashlib.sha256("\n".join(changed).encode()).hexdigest()[:12]

    def _find(self) -> tuple[list[Group], list[str]]:
        """Reads all runs, also those that are new; and why some are left out."""
        self.version, before = self._version(), {one.folder: one for one in self.runs}
        self.runs = []
        groups, left_out = read_groups(self.names, self.root)
        for group in groups:
            for one in group.runs:
                name = f"seed {one.seed}"
                again = Growing(one.folder, group.name, name, one.record)
                known = before.get(one.folder, again)
                self.runs.append(known if known.group == group.name else again)
        return groups, left_out

    def page(self) -> str:
        """The report as of now; its curves come as events."""
        with self._lock:
            try:
                groups, left_out = self._find()
            except Error as error:  # all runs are gone
                groups, found = [], Document("No runs", [Section("Summary", [str(error)])])
            else:
                found = document(groups, self.rebuilt, self.watts, left_out)
            curves = curves_json(groups, self.version)
        return html(found, curves, live=True)

    def event(self, follower: Follower) -> str:
        """What a page lacks, as an event; and whether its runs are others now: then it reloads."""
        if self._version() != follower.version:
            return _event({"reload": True})
        with self._lock:
            runs = self.runs
            for one in runs:
                one.read()
            news = {"runs": [one.progress() for one in runs], "series": follower.news(runs)}
        return _event(news)


def _event(value: Any) -> str:
    return f"data: {json.dumps(value, separators=(',', ':'), allow_nan=False)}\n\n"


@dataclass(frozen=True)
class LiveRoutes:
    """The two routes: the page, and its events."""

    live: Live

    async def page(self, request: Request) -> Response:
        """The page."""
        return HTMLResponse(
            await run_in_threadpool(self.live.page), headers={"Referrer-Policy": "no-referrer"}
        )

    async def events(self, request: Request) -> Response:
        """The events, as long as the page is open."""
        return StreamingResponse(
            self._events(request.query_params.get("version", "")),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store"},
        )

    async def _events(self, version: str) -> AsyncIterator[str]:
        follower, before = Follower(version), ""
        while True:
            event = await run_in_threadpool(self.live.event, follower)
            yield event if event != before else ": nothing new\n\n"
            before = event
            await asyncio.sleep(SECONDS)


def live_app(
    names: Sequence[str], root: Path | str, rebuild: bool = True, watts: float | None = None
) -> Starlette:
    """The application of a live report (ASGI): GET / and GET /events, as `report` otherwise."""
    routes = LiveRoutes(Live(names, Path(root), rebuild, watts))
    return Starlette(routes=[Route("/", routes.page), Route("/events", routes.events)])


def serve(
    names: Sequence[str], root: Path | str, rebuild: bool, watts: float | None, port: int
) -> None:
    """Serves a live report on this machine until Ctrl-C; `Error` where the port is taken."""
    application = live_app(names, root, rebuild, watts)
    run(application, HOST, port, guarded=False, drain_seconds=DRAIN_SECONDS)
