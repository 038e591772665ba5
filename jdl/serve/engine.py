"""Continuous batching: requests for text join and leave a running batch."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from queue import SimpleQueue

import numpy as np

from jdl.sampling import StreamDecoder
from jdl.serve.limits import RequestError, busy
from jdl.serve.models import ServedModel
from jdl.serve.slots import RowSampler, Slots, samplers
from jdl.serve.stop_strings import StopStrings

log = logging.getLogger("jdl.serve")
STOP, LENGTH, TIMEOUT = "stop", "length", "timeout"  # why a generation ended
FREE = RowSampler()  # of slots that nobody uses


@dataclass(frozen=True)
class Options:
    """What is generated: how tokens are sampled, how many at most, and what ends them."""

    max_new_tokens: int = 128
    temperature: float = 1.0  # 0: greedy decoding
    top_k: int = 0  # 0: all tokens
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()  # texts; what comes after one is not given, nor it itself
    stop_tokens: frozenset[int] | None = None  # by default the end token


@dataclass(frozen=True)
class Piece:
    """Some tokens of an answer and the text that is certain with them; the last one says why."""

    text: str = ""
    tokens: tuple[int, ...] = ()
    finish: str | None = None  # STOP, LENGTH or TIMEOUT
    error: Exception | None = None  # where it failed

    @property
    def last(self) -> bool:
        """Whether nothing follows."""
        return self.finish is not None or self.error is not None


Deliver = Callable[[Piece], None]  # called in the engine's thread


@dataclass(eq=False)
class Generation:
    """A request for text: its prompt, and what was generated so far."""

    prompt: np.ndarray
    options: Options
    deadline: float  # of time.monotonic
    deliver: Deliver
    stop_tokens: frozenset[int]
    text: StreamDecoder | None
    strings: StopStrings
    count: int = 0  # tokens
    token: int = 0  # the last one
    cancelled: bool = False

    @property
    def sampler(self) -> RowSampler:
        """How its next token is sampled."""
        o = self.options
        return RowSampler(o.temperature, o.top_k, o.top_p, o.seed, self.count)

    def accept(self, token: int) -> Piece:
        """Takes the next token, and gives what is certain of the text."""
        if token in self.stop_tokens:
            return self._rest(STOP)
        self.count, self.token = self.count + 1, token
        text = self.strings.push(self.text.push(token)) if self.text else ""
        if self.strings.found:
            return Piece(text, (token,), STOP)
        if self.count == self.options.max_new_tokens:
            rest = self._rest(LENGTH)
            return replace(rest, text=text + rest.text, tokens=(token,))
        return Piece(text, (token,))

    def _rest(self, finish: str) -> Piece:
        """The end, with the text that was held back."""
        text = self.strings.push(self.text.rest()) if self.text else ""
        text += self.strings.rest()
        return Piece(text, (), STOP if self.strings.found else finish)

    def timed_out(self) -> Piece:
        """The end at the deadline: what there is, or an error where there is nothing."""
        if not self.count:
            return Piece(error=RequestError(504, "The queue was too long: try again."))
        return self._rest(TIMEOUT)


@dataclass
class TextCounts:
    """What an engine has done so far: for the metrics."""

    tokens: int = 0
    prompts: int = 0
    steps: int = 0


@dataclass(eq=False)
class Engine:
    """Continuous batching (Orca, Yu et al., 2022) of a language model's requests.

    A thread decodes a token of all running requests in each step. One that ends leaves its slot of
    the KV cache, and one that waits takes it, before the next step. Tokens are those of the request
    alone in the engine, whatever its neighbours, and those of `jdl.sampling.stream` but for
    rounding: token n is sampled by the key of the request's own seed and n.
    """

    model: ServedModel
    slots: int = 8
    queue: int = 256  # requests that wait for a slot
    counts: TextCounts = field(default_factory=TextCounts)

    def __post_init__(self) -> None:
        self._state = Slots(self.model, self.slots)
        self._running: dict[int, Generation] = {}  # by slot
        self._waiting: deque[Generation] = deque()
        self._changed = threading.Condition()
        self._closed = False
        name = f"generation of {self.model.name}"
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    @property
    def waiting(self) -> int:
        """The number of requests that wait for a slot."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """The number of slots in use."""
        return len(self._running)

    def warm(self) -> None:
        """Compiles all programs. Before `start`."""
        self._state.warm()

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def close(self, timeout: float | None = None) -> None:
        """Ends the thread after what runs and waits; after `timeout` seconds that is cancelled."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if not self._thread.is_alive():
            return
        self._thread.join(timeout)
        with self._changed:
            for generation in (*self._waiting, *self._running.values()):
                generation.cancelled = True
        self._thread.join()

    def submit(
        self, prompt: Sequence[int], options: Options, deadline: float, deliver: Deliver
    ) -> Generation:
        """Puts a request into the queue; `deliver` gets its pieces, in the engine's thread.

        Raises `RequestError`: 422 for a prompt that is empty, too long or has tokens that the model
        does not know, and 503 where the queue is full.
        """
        tokens = self._checked(prompt)
        if self._state.max_length is not None:
            room = self._state.max_length + 1 - len(tokens)
            options = replace(options, max_new_tokens=min(options.max_new_tokens, room))
        stop_tokens = options.stop_tokens
        if stop_tokens is None:
            about = self.model.manifest["tokenizer"]
            stop_tokens = frozenset([about["eos_id"]] if about else [])
        text = StreamDecoder(self.model.tokenizer) if self.model.tokenizer else None
        strings = StopStrings(options.stop)
        generation = Generation(tokens, options, deadline, deliver, stop_tokens, text, strings)
        with self._changed:
            if self._closed:
                raise busy("The server is shutting down.")
            if len(self._waiting) >= self.queue:
                raise busy(f"{self.queue} requests wait already: try again.")
            self._waiting.append(generation)
            self._changed.notify()
        return generation

    def cancel(self, generation: Generation) -> None:
        """Forgets a request: its place in the queue is free at once, its slot at the next step."""
        with self._changed:
            generation.cancelled = True
            if generation in self._waiting:
                self._waiting.remove(generation)

    def pieces(
        self, prompt: Sequence[int], options: Options, timeout: float = 60.0
    ) -> Iterator[Piece]:
        """The pieces of an answer, as they come; raises the error of one that failed."""
        found: SimpleQueue[Piece] = SimpleQueue()
        generation = self.submit(prompt, options, time.monotonic() + timeout, found.put)
        try:
            piece = Piece()
            while not piece.last:
                piece = found.get()
                if piece.error is not None:
                    raise piece.error
                yield piece
        finally:
            self.cancel(generation)

    def _checked(self, prompt: Sequence[int]) -> np.ndarray:
        longest = self._state.longest_prompt
        if not 1 <= len(prompt) <= longest:
            raise RequestError(
                422, f"The prompt has {len(prompt):,} tokens, and must have from 1 to {longest:,}."
            )
        vocabulary = self.vocabulary
        for token in prompt:
            if not 0 <= token < vocabulary:
                raise RequestError(
                    422, f"There is no token {str(token)[:20]}: they are below {vocabulary:,}."
                )
        return np.asarray(prompt, np.int32)

    @property
    def vocabulary(self) -> int:
        """The number of tokens that the model knows."""
        return self.model.programs["decode"].outputs["logits"]["shape"][-1]

    def _work(self) -> None:
        while (joining := self._next()) is not None:
            for generation in joining:
                self._join(generation)
            if self._running:
                self._step()

    def _next(self) -> list[Generation] | None:
        """Who joins before the next step; None where the engine is closed and nothing is left."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._running or self._closed)
            self._drop()
            if self._closed and not self._waiting and not self._running:
                return None
            count = min(self.slots - len(self._running), len(self._waiting))
            return [self._waiting.popleft() for _ in range(count)]

    def _drop(self) -> None:
        """Takes out who was cancelled, or is too late."""
        now = time.monotonic()
        for generation in [g for g in self._waiting if g.cancelled or g.deadline <= now]:
            self._waiting.remove(generation)
            _deliver(generation, generation.timed_out())
        for slot, generation in list(self._running.items()):
            if generation.cancelled or generation.deadline <= now:
                self._leave(slot, generation.timed_out())

    def _join(self, generation: Generation) -> None:
        """Prefill: the prompt is read into a free slot, and the first token sampled."""
        slot = next(n for n in range(self.slots) if n not in self._running)
        self._running[slot] = generation
        try:
            token = self._state.join(slot, generation.prompt, samplers([generation.sampler]))
        except Exception as error:  # of the runtime, say out of memory
            log.exception("a prompt of %s could not be read", self.model.name)
            self._leave(slot, Piece(error=error))
            return
        self.counts.prompts += 1
        self._accept(slot, token)

    def _step(self) -> None:
        """A token more for all that run; if that fails they all do, and others go on."""
        rows = [self._running.get(slot) for slot in range(self.slots)]
        last = np.asarray([row.token if row else 0 for row in rows], np.int32)
        try:
            found = self._state.step(last, samplers([row.sampler if row else FREE for row in rows]))
        except Exception as error:
            log.exception("a step of %s failed", self.model.name)
            for slot in list(self._running):
                self._leave(slot, Piece(error=error))
            self._state.clear()  # the step may have used it up
            return
        self.counts.steps += 1
        for slot in list(self._running):
            self._accept(slot, int(found[slot]))

    def _accept(self, slot: int, token: int) -> None:
        generation = self._running[slot]
        try:
            piece = generation.accept(token)
        except Exception as error:  # of the tokenizer
            log.exception("a token of %s is no text", self.model.name)
            piece = Piece(error=error)
        self.counts.tokens += 1
        if piece.last:
            self._leave(slot, piece)
        else:
            _deliver(generation, piece)

    def _leave(self, slot: int, piece: Piece) -> None:
        _deliver(self._running.pop(slot), piece)


def _deliver(generation: Generation, piece: Piece) -> None:
    """Gives a piece to who asked; nobody else suffers where that fails."""
    try:
        generation.deliver(piece)
    except Exception:  # its loop is closed, say
        generation.cancelled = True
