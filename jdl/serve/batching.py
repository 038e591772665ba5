"""Dynamic batching: requests that wait together are computed together, padded to buckets."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from jdl.export.program import TIME_AXIS
from jdl.serve.limits import Limits, RequestError, busy
from jdl.serve.models import Columns, ServedProgram
from jdl.types import Error

log = logging.getLogger("jdl.serve")


@dataclass(eq=False)
class Job:
    """The rows of one request in the queue, and the future of their outputs."""

    columns: Columns
    rows: int
    time: int | None  # of the bucket, where the program's time is symbolic
    deadline: float  # of time.monotonic
    future: asyncio.Future[Columns]

    def settle(self, found: Columns | Exception) -> None:
        """Gives the outputs or an error to who waits; called in the loop that waits."""
        if self.future.done():
            return
        if isinstance(found, Exception):
            self.future.set_exception(found)
        else:
            self.future.set_result(found)


@dataclass
class BatchCounts:
    """What a batcher has computed so far: for the metrics."""

    batches: int = 0
    rows: int = 0
    padding: int = 0


@dataclass(eq=False)
class Batcher:
    """Dynamic batching (as of Clipper, Crankshaw et al., 2017) of the requests to one program.

    It is greedy: a thread takes all that waits, up to `max_batch` rows of one bucket of time, and
    computes it at once, padded to a power of two, so that few shapes are ever compiled. With a wait
    of 0 nobody waits for a fuller batch: requests gather while the batch before them is computed.
    """

    program: ServedProgram
    limits: Limits
    counts: BatchCounts = field(default_factory=BatchCounts)

    def __post_init__(self) -> None:
        self.times: list[int] = []  # the buckets of time, where it is symbolic
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(
            target=self._work, name=f"batches of {self.program.name}", daemon=True
        )

    @property
    def waiting(self) -> int:
        """The number of requests in the queue."""
        return len(self._waiting)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def warm(self) -> None:
        """Compiles the program for every bucket.

        A model may need more time than the smallest buckets have: they are left out, as is seen
        here. Raises `Error` where it computes none.
        """
        most = self.program.max_time
        failure: Exception | None = None
        self.times = []
        for bucket_time in [None] if most is None else buckets_of_time(most):
            try:
                for size in buckets(self.limits.max_batch):
                    if self._closed:
                        return
                    jax.block_until_ready(self.program(_zeros(self.program, size, bucket_time)))
            except ValueError as error:  # the shape is refused by the program's constraints
                failure = error
                continue
            self.times += [] if bucket_time is None else [bucket_time]
        if failure and not self.times:
            raise Error(f"The program {self.program.name} computes no batch: {failure}.")

    def close(self) -> None:
        """Computes what still waits, then ends the thread; nothing more is taken."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, columns: Columns, deadline: float) -> Job:
        """Puts rows into the queue; `RequestError` 503 where it is full. Called in a loop."""
        loop = asyncio.get_running_loop()
        rows = len(next(iter(columns.values())))
        job = Job(columns, rows, self._time(columns), deadline, loop.create_future())
        with self._changed:
            if self._closed:
                raise busy("The server is shutting down.")
            if len(self._waiting) >= self.limits.queue:
                raise busy(f"{self.limits.queue} requests wait already: try again.")
            self._waiting.append(job)
            self._changed.notify()
        return job

    def forget(self, job: Job) -> None:
        """Frees the place of a request whose client has left, if it still waits."""
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)

    def _time(self, columns: Columns) -> int | None:
        """The bucket of the time of a request's rows: a power of two, or the largest time."""
        most = self.program.max_time
        if most is None:
            return None
        time = columns[self.program.timed[0]].shape[1]
        return next(size for size in self.times if size >= time)

    def _work(self) -> None:
        while jobs := self._take():
            try:
                answers: Sequence[Columns | Exception] = self.compute(jobs)
            except Exception as error:  # of the runtime, say out of memory
                log.exception("a batch of %s failed", self.program.name)
                answers = [error] if len(jobs) == 1 else [self._alone(job) for job in jobs]
            _deliver(jobs, answers)

    def _alone(self, job: Job) -> Columns | Exception:
        """The answer of a request whose batch failed, so that none suffers from another."""
        try:
            return self.compute([job])[0]
        except Exception as error:
            log.exception("a request to %s failed", self.program.name)
            return error

    def _take(self) -> list[Job]:
        """The requests of the next batch; none when the batcher is closed and nothing waits."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                self._drop_late()
                if self._waiting and self.limits.wait_ms and not self._closed:
                    self._changed.wait_for(self._is_full, self.limits.wait_ms / 1e3)
                    self._drop_late()
                if self._waiting or self._closed:
                    break
            jobs: list[Job] = []
            rows = 0
            for job in list(self._waiting):
                if jobs and (job.time != jobs[0].time or rows + job.rows > self.limits.max_batch):
                    continue
                jobs.append(job)
                rows += job.rows
                self._waiting.remove(job)
            return jobs

    def _is_full(self) -> bool:
        return self._closed or sum(job.rows for job in self._waiting) >= self.limits.max_batch

    def _drop_late(self) -> None:
        """Answers those that have waited too long, and removes them."""
        now = time.monotonic()
        late = [job for job in self._waiting if job.deadline <= now]
        for job in late:
            self._waiting.remove(job)
        _deliver(late, [RequestError(504, "The queue was too long: try again.")] * len(late))

    def compute(self, jobs: Sequence[Job]) -> list[Columns]:
        """The outputs of each request, of all their rows in batches of at most `max_batch`."""
        columns = _together(jobs, self.program.timed)
        rows, parts = sum(job.rows for job in jobs), []
        for start in range(0, rows, self.limits.max_batch):
            count = min(self.limits.max_batch, rows - start)
            size = bucket(count)
            places = start + np.minimum(np.arange(size), count - 1)
            outputs = self.program({name: column[places] for name, column in columns.items()})
            parts.append({name: np.asarray(out)[:count] for name, out in outputs.items()})
            self.counts.batches += 1
            self.counts.rows += count
            self.counts.padding += size - count
        outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        ends = np.cumsum([job.rows for job in jobs])
        return [
            _of_job(self.program, job, outputs, slice(end - job.rows, end))
            for job, end in zip(jobs, ends, strict=True)
        ]


def bucket(size: int) -> int:
    """The smallest power of two that is not below a size."""
    return 1 << (size - 1).bit_length()


def buckets(most: int) -> list[int]:
    """All sizes that a batch of at most so many rows is padded to."""
    return [1 << n for n in range(bucket(most).bit_length())]


def buckets_of_time(most: int, least: int = 1) -> list[int]:
    """The times that rows are padded to: powers of two from `least` on, and the largest time."""
    return [*(size for size in buckets(most) if least <= size < most), most]


def _zeros(program: ServedProgram, rows: int, time: int | None) -> dict[str, np.ndarray]:
    """Inputs of a bucket."""
    shapes: dict[str, list[Any]] = {
        name: [time if size == TIME_AXIS else size for size in about["shape"]]
        for name, about in program.inputs.items()
    }
    return {
        name: np.zeros([rows, *shape[1:]], program.inputs[name]["dtype"])
        for name, shape in shapes.items()
    }


def _together(jobs: Sequence[Job], timed: Sequence[str]) -> Columns:
    """The rows of all requests, with zeros after their time."""
    found = {}
    for name in jobs[0].columns:
        columns = [job.columns[name] for job in jobs]
        if name in timed:
            columns = [_padded(column, job.time) for column, job in zip(columns, jobs, strict=True)]
        found[name] = columns[0] if len(columns) == 1 else np.concatenate(columns)
    return found


def _padded(column: np.ndarray, time: int | None) -> np.ndarray:
    """A column (N, t, ...) with zeros up to a time."""
    assert time is not None
    widths = [(0, 0)] * column.ndim
    widths[1] = (0, time - column.shape[1])
    return np.pad(column, widths)


def _of_job(
    program: ServedProgram, job: Job, outputs: Mapping[str, np.ndarray], rows: slice
) -> Columns:
    """The rows of a request, without the time that was padded."""
    found = {name: column[rows] for name, column in outputs.items()}
    if job.time is None:
        return found
    time = job.columns[program.timed[0]].shape[1]
    for name, about in program.outputs.items():
        for axis, size in enumerate(about["shape"]):
            if size == TIME_AXIS:
                found[name] = found[name].take(np.arange(time), axis)
    return found


def _deliver(jobs: Sequence[Job], answers: Sequence[Any]) -> None:
    """Gives answers to the loops that wait for them, with one call for each loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Job, Any]]] = {}
    for job, answer in zip(jobs, answers, strict=True):
        by_loop.setdefault(job.future.get_loop(), []).append((job, answer))
    for loop, settled in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_settle, settled)


def _settle(settled: Sequence[tuple[Job, Any]]) -> None:
    for job, answer in settled:
        job.settle(answer)
