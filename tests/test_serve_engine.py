"""Continuous batching: tokens are those of a request alone, whoever joins and leaves.

Seen to fail: keys that do not depend on the token's number, prompts that are all read into one
slot, cancelled requests that keep theirs, stop strings of which a part was given before.
"""

import threading
import time
from dataclasses import replace

import jax
import numpy as np
import pytest
from language_models import MAX_LENGTH

from jdl import sampling
from jdl.data import ByteTokenizer
from jdl.serve.engine import Engine, Options
from jdl.serve.limits import RequestError
from jdl.serve.models import load_model
from jdl.serve.stop_strings import StopStrings

SLOTS, SOON = 3, 60.0
NEVER = frozenset([1 << 20])  # no stop token
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def exported(talk):
    """The model of an exported folder, and the run that it came from."""
    folder, trained = talk
    return load_model(folder), trained


@pytest.fixture
def engine(exported):
    engine = Engine(exported[0], SLOTS, queue=16)
    engine.start()
    yield engine
    engine.close(0.0)


def requests(count=9):
    """Prompts of several lengths, with options of several kinds."""
    ways = [{"temperature": 0.0}, {"temperature": 3.0}, {"top_k": 5}, {"top_p": 0.5}]
    return [
        (
            RNG.integers(0, 256, 1 + 5 * n % 17).tolist(),
            Options(2 + 7 * n % 23, seed=n, stop_tokens=NEVER, **ways[n % len(ways)]),
        )
        for n in range(count)
    ]


def alone(trained, prompt, options):
    """The tokens of `jdl.sampling.stream`, which reads prompts otherwise."""
    o = options
    way = sampling.sample_token(o.temperature, o.top_k, o.top_p) if o.temperature else None
    found = sampling.stream(
        trained.objective,
        trained.variables,
        np.asarray(prompt, np.int32),
        o.max_new_tokens,
        way or sampling.greedy,
        jax.random.key(o.seed),
    )
    return list(found)


def tokens(engine, prompt, options):
    return [token for piece in engine.pieces(prompt, options, SOON) for token in piece.tokens]


@pytest.mark.slow
def test_tokens_are_those_of_the_request_alone(exported, engine):
    """In three orders, at random moments: more requests than slots."""
    asked = requests()
    expected = [alone(exported[1], *request) for request in asked]
    assert len({tuple(found) for found in expected}) == len(asked)
    for order in (range(9), range(8, -1, -1), RNG.permutation(9)):
        found = {}

        def ask(n, found=found):
            found[n] = tokens(engine, *asked[n])

        threads = [threading.Thread(target=ask, args=(n,)) for n in order]
        for thread in threads:
            thread.start()
            time.sleep(RNG.choice([0, 0, 0.004]))
        for thread in threads:
            thread.join()
        assert [found[n] for n in range(9)] == expected
    assert engine.counts.tokens == 3 * sum(map(len, expected))
    assert engine.counts.steps < engine.counts.tokens - engine.counts.prompts  # some were together
    assert not engine.running
    assert not engine.waiting


def test_an_answer_ends_with_the_cache_the_count_or_a_stop(exported, engine):
    prompt, greedy = [97, 98, 99], Options(500, 0.0, stop_tokens=NEVER)
    pieces = list(engine.pieces(prompt, greedy))
    whole = [token for piece in pieces for token in piece.tokens]
    assert len(whole) == MAX_LENGTH + 1 - len(prompt)
    assert [piece.finish for piece in pieces if piece.last] == ["length"]
    text = ByteTokenizer().decode(whole)
    assert "".join(piece.text for piece in pieces) == text
    end = whole[5]
    *before, last = engine.pieces(prompt, replace(greedy, stop_tokens=frozenset([end])))
    assert (last.finish, last.tokens) == ("stop", ())
    assert [t for piece in before for t in piece.tokens] == whole[: whole.index(end)]
    stop = text[4:7]
    *before, last = engine.pieces(prompt, replace(greedy, stop=("no such", stop)))
    assert last.finish == "stop"
    assert "".join(piece.text for piece in (*before, last)) == text[: text.index(stop)]


def test_stop_strings_are_found_however_the_text_is_cut():
    text = "one two threefour"
    for stops in (("two",), ("threat", "four"), ("e t", "o t"), (text,), ("x",), ()):
        end = min((text.find(s) for s in stops if s in text), default=len(text))
        for size in (1, 2, 3, 5):
            found = StopStrings(stops)
            given = [found.push(text[n : n + size]) for n in range(0, len(text), size)]
            assert "".join(given) + found.rest() == text[:end]
            assert found.found == (end < len(text))
    assert StopStrings(("ab",)).push("xa") == "x"  # what may be a stop string is held back


class Asked:
    """A request whose pieces are kept, and the end awaited."""

    def __init__(self, engine, prompt=(97,), options=None, deadline=None):
        self.pieces, self.first, self.done = [], threading.Event(), threading.Event()
        deadline = time.monotonic() + SOON if deadline is None else deadline
        options = options or Options(40, 0.0, stop_tokens=NEVER)
        self.generation = engine.submit(prompt, options, deadline, self.take)

    def take(self, piece):
        self.pieces.append(piece)
        self.first.set()
        if piece.last:
            self.done.set()

    @property
    def last(self):
        assert self.done.wait(SOON)
        return self.pieces[-1]


def slow_steps(engine, seconds=0.02):
    """Steps that take longer than it takes to do something beside them."""
    step = engine._state.step

    def slowly(*arguments):
        time.sleep(seconds)
        return step(*arguments)

    engine._state.step = slowly


def test_who_leaves_frees_the_slot_and_who_is_late_is_told(engine):
    slow_steps(engine)
    running = [Asked(engine) for _ in range(SLOTS)]
    waiting = Asked(engine)
    late = Asked(engine, deadline=time.monotonic() + 0.1)
    short = Asked(engine, deadline=time.monotonic() + SOON)
    assert all(one.first.wait(SOON) for one in running)
    engine.cancel(short.generation)
    engine.cancel(running[0].generation)
    assert waiting.first.wait(SOON)
    assert not running[1].done.is_set()
    assert late.last.error.status == 504
    assert not short.pieces
    assert [one.last.finish for one in (*running[1:], waiting)] == ["length"] * 3
    cut = Asked(engine, deadline=time.monotonic() + 0.3)
    assert cut.last.finish == "timeout"
    assert 0 < sum(len(piece.tokens) for piece in cut.pieces) < 40


def test_a_full_queue_and_wrong_prompts_are_refused(engine):
    slow_steps(engine)
    asked = [Asked(engine) for _ in range(SLOTS)]
    assert all(one.first.wait(SOON) for one in asked)
    asked += [Asked(engine) for _ in range(16)]
    with pytest.raises(RequestError, match="16 requests wait already") as full:
        Asked(engine)
    assert (full.value.status, full.value.headers) == (503, {"Retry-After": "1"})
    for one in asked:
        engine.cancel(one.generation)
    for prompt, message in (
        ([], "from 1 to 40"),
        ([1] * 41, "has 41 tokens"),
        ([261], "no token 261"),
        ([-1], "no token -1"),
    ):
        with pytest.raises(RequestError, match=message) as wrong:
            Asked(engine, prompt)
        assert wrong.value.status == 422


def test_a_failure_harms_no_other(exported, engine, monkeypatch):
    expected = alone(exported[1], [97], Options(40, 0.0, stop_tokens=NEVER))
    join, fails = engine._state.join, [66]

    def fail(slot, prompt, sampler):
        if prompt.tolist() == fails:
            raise MemoryError("full")
        return join(slot, prompt, sampler)

    monkeypatch.setattr(engine._state, "join", fail)
    good, bad = Asked(engine), Asked(engine, fails)
    broken = Asked(engine)
    broken.generation.text.push = None  # as a tokenizer that fails
    gone = Asked(engine)
    gone.generation.deliver = None  # as a loop that is closed
    assert isinstance(bad.last.error, MemoryError)
    assert isinstance(broken.last.error, TypeError)
    assert good.last.finish == "length"
    assert [t for piece in good.pieces for t in piece.tokens] == expected
    step = engine._state.step
    monkeypatch.setattr(engine._state, "step", None)  # as a device that fails
    assert isinstance(Asked(engine).last.error, TypeError)
    monkeypatch.setattr(engine._state, "step", step)
    assert tokens(engine, [97], Options(40, 0.0, stop_tokens=NEVER)) == expected


def test_what_is_in_is_answered_before_the_end(exported):
    engine = Engine(exported[0], 1)
    engine.start()
    asked = [Asked(engine) for _ in range(3)]
    engine.close()
    assert [one.last.finish for one in asked] == ["length"] * 3
    with pytest.raises(RequestError, match="shutting down"):
        Asked(engine)
