"""What a running server has: its models, a batcher for each program, and its state of health."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import Request

from jdl.serve.batching import Batcher
from jdl.serve.counters import Counters, family
from jdl.serve.engine import Engine
from jdl.serve.inputs import padded_size
from jdl.serve.limits import Limits, RequestError, busy
from jdl.serve.models import Columns, Models, ServedModel
from jdl.serve.requests import Memory, Threads, answer, body_of
from jdl.serve.sample_requests import latents, refusal

T = TypeVar("T")
log = logging.getLogger("jdl.serve")


@dataclass(eq=False)
class Deployment:
    """The models of a server: batchers of what predicts and samples, engines of what writes."""

    models: Models
    limits: Limits
    memory: Memory
    batchers: Mapping[tuple[ServedModel, str], Batcher]  # by model and program
    engines: Mapping[ServedModel, Engine]
    counters: Counters = field(default_factory=Counters)
    threads: Threads = field(default_factory=lambda: Threads(ThreadPoolExecutor(2)))
    state: str = "warming"  # then "ready", then "draining"; or "failed"

    def start(self) -> None:
        """Starts the batchers, and compiles every bucket in a thread."""
        for batcher in self.batchers.values():
            batcher.start()
        self._warming = threading.Thread(target=self._warm, name="warming", daemon=True)
        self._warming.start()

    def _warm(self) -> None:
        start = time.monotonic()
        try:
            for batcher in self.batchers.values():
                batcher.warm()
                if batcher.program.name == "generate":
                    latents(batcher.program.inputs["z"]["shape"][1:], 1, 0)  # compiles, too
            for engine in self.engines.values():
                if self.state == "warming":
                    engine.warm()
                    engine.start()
        except Exception:  # of the runtime, say out of memory
            log.exception("a model cannot be computed")
            self.state = "failed"
            return
        if self.state == "warming":
            self.state = "ready"
            log.info("ready: every bucket was compiled in %.1f s", time.monotonic() - start)

    def close(self) -> None:
        """Answers what is in, and ends the threads."""
        self.state = "draining"
        for batcher in self.batchers.values():
            batcher.close()
        self._warming.join()
        for engine in self.engines.values():
            engine.close(0.0)  # who asked has the answer, or has left
        self.threads.pool.shutdown()

    def check_ready(self) -> None:
        """Raises `RequestError` 503 before every bucket is warm, or where one never is."""
        if self.state != "ready":
            raise busy(f"The server is {self.state}.")

    def batcher(self, model: ServedModel, program: str) -> Batcher:
        """The batcher of a model's program; `RequestError` 422 for a model that has it not."""
        if (model, program) not in self.batchers:
            programs = ", ".join(model.programs)
            raise RequestError(
                422, f"{model.name} does not {program}: it has the programs {programs}."
            )
        self.check_ready()
        return self.batchers[model, program]

    async def compute(
        self,
        request: Request,
        model: ServedModel,
        program: str,
        read: Callable[..., tuple[Any, Columns]],
        write: Callable[[Any, Columns], T],
    ) -> T:
        """The answer to a request: its body read as columns of a program, computed, and written.

        `read` gets the body, the program, the limits and what takes memory, and gives what `write`
        gets with the outputs.
        """
        deadline = time.monotonic() + self.limits.timeout
        batcher = self.batcher(model, program)
        async with body_of(request, self.limits, self.memory, deadline) as (body, share):
            # An array is filled far faster than JSON of as many bytes is parsed.
            size = len(body) + padded_size(len(body), batcher.program, self.limits) // 64
            document, columns = await self.threads.call(
                size, read, body, batcher.program, self.limits, share.take
            )
        outputs = await answer(request, batcher, columns, self.memory, deadline)
        size = sum(column.nbytes for column in outputs.values())
        return await self.threads.call(size, write, document, outputs)

    def engine(self, model: ServedModel) -> Engine:
        """The engine of a language model; `RequestError` 422 for another model."""
        if model not in self.engines:
            raise RequestError(422, f"{model.name} is no language model: it writes no text.")
        self.check_ready()
        return self.engines[model]

    def metrics(self) -> str:
        """All metrics as Prometheus reads them."""
        lines = self.counters.lines()
        lines += family("jdl_ready", "gauge", "1 when it serves.", [({}, self.state == "ready")])
        lines += family("jdl_memory_bytes", "gauge", "Of requests.", [({}, self.memory.used)])
        by_model = [
            ({"model": model.name, "version": model.version, "program": program}, batcher)
            for (model, program), batcher in self.batchers.items()
        ]
        for name, kind, help, value in (
            ("jdl_queue_requests", "gauge", "Requests that wait.", lambda b: b.waiting),
            ("jdl_batches_total", "counter", "Batches computed.", lambda b: b.counts.batches),
            ("jdl_rows_total", "counter", "Rows computed.", lambda b: b.counts.rows),
            ("jdl_padding_total", "counter", "Rows of padding.", lambda b: b.counts.padding),
        ):
            lines += family(name, kind, help, [(labels, value(b)) for labels, b in by_model])
        by_engine = [
            ({"model": model.name, "version": model.version}, engine)
            for model, engine in self.engines.items()
        ]
        for name, kind, help, number in (
            ("jdl_waiting_texts", "gauge", "Texts that wait for a slot.", lambda e: e.waiting),
            ("jdl_running_texts", "gauge", "Slots in use.", lambda e: e.running),
            ("jdl_prompts_total", "counter", "Prompts read.", lambda e: e.counts.prompts),
            ("jdl_tokens_total", "counter", "Tokens generated.", lambda e: e.counts.tokens),
            ("jdl_steps_total", "counter", "Steps of decoding.", lambda e: e.counts.steps),
        ):
            lines += family(name, kind, help, [(labels, number(e)) for labels, e in by_engine])
        return "\n".join(lines).replace(" True", " 1").replace(" False", " 0") + "\n"


def deploy(models: Models, limits: Limits) -> Deployment:
    """A deployment of models, whose batchers are not started."""
    for model in models.models:
        if "generate" in model.programs and (why := refusal(model)) is not None:
            log.warning("not served: %s", why)
    batchers = {
        (model, program): Batcher(model.programs[program], limits)
        for model in models.models
        for program in ("predict", "generate")
        if program in model.programs and (program == "predict" or refusal(model) is None)
    }
    engines = {
        model: Engine(model, limits.slots, limits.queue)
        for model in models.models
        if "decode" in model.programs
    }
    return Deployment(models, limits, Memory(limits.max_memory), batchers, engines)
