"""The training loop and its hooks: what these are given, when, and that they change nothing.

Seen to fail: that a hook changes nothing, when it was given the loop's own dicts; that a raising
hook saves nothing, with hooks after the checkpoint; the bound of the steps in flight, without a
bound; several steps a call, where they went on into the next epoch, past a due hook, or gave a hook
the metrics of the first step.
"""

import itertools
from dataclasses import dataclass, replace

import harness
import jax
import jax.numpy as jnp
import kitchen_sink
import numpy as np
import pytest
from harness import digest, lines, train

import jdl
from jdl.learners import SeveralSteps
from jdl.metrics import scalars
from jdl.store.checkpoints import Checkpoints, state_digest
from jdl.train import loop
from jdl.train.hooks import default_eval_every


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run without hooks that the others are compared with."""
    return train(tmp_path_factory.mktemp("whole"))


@dataclass(frozen=True, eq=False)
class Counter(jdl.Learner):
    """A learner that adds its batches up."""

    def step(self, state, batch):
        return state.replace(batch), {"loss": jdl.Mean(jnp.float32(batch), jnp.ones(()))}


class Numbers(jdl.Loader):
    """Batch i is i."""

    def read(self, start=0):
        return itertools.count(start)


@dataclass(frozen=True)
class Total:
    step: int
    total: int = 0

    def replace(self, batch):
        return Total(self.step + 1, self.total + batch)


def test_the_generator_trains_and_resumes():
    yielded = list(loop.steps(Counter(), Numbers(), Total(0), until=5))
    assert [step for step, _, _ in yielded] == [1, 2, 3, 4, 5]
    assert [state.total for _, state, _ in yielded] == [0, 1, 3, 6, 10]
    assert [state for _, state, _ in loop.steps(Counter(), Numbers(), yielded[2][1], until=5)] == [
        state for _, state, _ in yielded[3:]
    ]


def test_metrics_are_fetched_late_in_order_and_before_any_hook():
    fetched, ahead, called = [], [], []

    class Every(loop.StepHook):
        def due(self, step):
            ahead.append(step - len(fetched))
            return step % 20 == 0

        def __call__(self, step, state, metrics):
            called.append((step, state.total, len(fetched)))

    state = loop.train(
        Counter(), Numbers(), Total(0), 50, [Every()], lambda step, metrics: fetched.append(step)
    )
    assert fetched == list(range(1, 51))
    assert called == [(20, 190, 20), (40, 780, 40)]
    assert 1 < max(ahead) <= loop.IN_FLIGHT
    assert state.total == 49 * 50 // 2


class Epochs(jdl.Loader):
    """Batch i is its epoch, of 7 batches, whose raw data is one array."""

    def read(self, start=0):
        epochs = [np.int64(n) for n in range(20)]
        return (epochs[i // 7] for i in itertools.count(start))


def test_several_steps_a_call_end_where_a_hook_is_due_and_with_the_epoch():
    taken, fetched, called = [], [], []

    def program(state, raw, number):
        taken.append(int(number))
        states = list(
            itertools.accumulate(range(number), lambda s, _: s.replace(raw), initial=state)
        )
        totals = np.zeros(16, np.float32)
        totals[:number] = [one.total for one in states[1:]]
        return states[-1], {"loss": jdl.Mean(totals, np.ones(16, np.float32))}

    class Every(loop.StepHook):
        def due(self, step):
            return step % 10 == 0

        def __call__(self, step, state, metrics):
            called.append((step, state.total, metrics["loss"].total, len(fetched)))

    state = loop.train(
        Counter(), Epochs(), Total(2), 33, [Every()],
        lambda step, metrics: fetched.append((step, int(metrics["loss"].total))),
        several=SeveralSteps(4, program),
    )  # fmt: skip
    totals = list(itertools.accumulate(i // 7 for i in range(2, 33)))
    assert taken == [4, 1, 3, 4, 4, 2, 1, 4, 3, 2, 3]
    assert called == [(step, totals[step - 3], totals[step - 3], step - 2) for step in (10, 20, 30)]
    assert fetched == list(zip(range(3, 34), totals, strict=True))
    assert (state.step, state.total) == (33, totals[-1])


def test_data_that_nobody_shuffles_are_the_same_arrays_in_all_epochs():
    """So that steps of several epochs, as of reinforcement learning, are taken in one call."""
    raws = list(itertools.islice(jdl.data.episodes(4).read(), 3))
    assert all(loop._same_arrays(raws[0], raw) for raw in raws)
    shuffled = jdl.data.arrays(x=np.arange(4.0, dtype=np.float32)).shuffled(2, 0).read()
    first, second, third = itertools.islice(shuffled, 3)
    assert loop._same_arrays(first, second)
    assert not loop._same_arrays(second, third)


def test_a_hook_collects_what_it_likes(whole, tmp_path):
    """NumPy arrays of parameters stay as they were although the state's memory is donated."""
    collected = {}

    def collect(step, state, metrics):
        numbers = scalars(metrics)
        collected[step] = (numbers["loss"], jax.tree.map(np.asarray, state.params))

    result = train(tmp_path, hooks=[(10, collect)])
    assert list(collected) == [10, 20, 30, 40, 50, 60]
    assert digest(result) == digest(whole)
    logged = [line for line in harness.lines(whole) if '"train"' in line]
    for step, (loss, _) in collected.items():
        assert f'"loss": {loss}' in logged[step - 1]
    paused = tmp_path / "paused"
    with pytest.raises(jdl.Error, match="paused"):
        train(paused, until=20)
    like = jax.eval_shape(lambda state: state, result.state)
    checkpoints = Checkpoints(harness.folder_of(paused) / "checkpoints", "max accuracy")
    state, _ = checkpoints.restore(like, 20)
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, collected[20][1], state.params)


def test_a_hook_that_changes_what_it_is_given_changes_nothing(whole, tmp_path):
    def vandal(step, state, metrics):
        state.params.clear()
        state.model_state.clear()
        state.extra["ema"].clear()
        metrics.clear()

    result = train(tmp_path, hooks=[(1, vandal)])
    assert digest(result) == digest(whole)
    assert lines(result) == lines(whole)


def test_a_hook_that_deletes_an_array_ends_the_run_and_spoils_nothing(whole, tmp_path):
    def delete(step, state, metrics):
        if step == 30:
            jax.tree.leaves(state.params)[0].delete()

    with pytest.raises((RuntimeError, ValueError), match="deleted"):
        train(tmp_path, hooks=[(10, delete)], save_every=7)
    result = train(tmp_path, save_every=7)
    assert result.steps == 60 - 28
    assert digest(result) == digest(whole)
    assert lines(result) == lines(whole)


def test_a_hook_that_raises_ends_the_run_with_its_error_and_saves_nothing(whole, tmp_path):
    calls = []

    def fail(step, state, metrics):
        calls.append(step)
        if step == 30:
            raise ZeroDivisionError("of the hook")

    with pytest.raises(ZeroDivisionError, match="of the hook"):
        train(tmp_path, hooks=[(10, fail)], save_every=10)
    folder = harness.folder_of(tmp_path)
    assert max(int(path.name) for path in (folder / "checkpoints").glob("[0-9]*")) == 20
    result = train(tmp_path, hooks=[(10, lambda step, *_: calls.append(step))], save_every=10)
    assert calls == [10, 20, 30, 30, 40, 50, 60]
    assert digest(result) == digest(whole)
    assert lines(result) == lines(whole)


def test_what_happens_at_one_step_happens_in_order(tmp_path):
    """Evaluation before hooks, whose step is logged by then (the test above has the checkpoint)."""
    folders, states = [], []

    def check(step, state, metrics):
        folder = harness.folder_of(tmp_path)
        written = (folder / "metrics.jsonl").read_text()
        assert f'{{"step": {step}, "split": "valid"' in written
        assert f'{{"step": {step}, "split": "train"' in written
        folders.append(folder)
        states.append(state_digest(state))

    result = train(tmp_path, steps=8, hooks=[(4, check)], eval_every=4, save_every=4)
    assert len(folders) == 2
    assert states[-1] == digest(result)


@pytest.mark.parametrize(
    "hook", [(0, print), (2.0, print), (1, "print"), print, (1,)], ids=["0", "2.0", "str", "f", "1"]
)
def test_what_is_no_hook_is_refused(tmp_path, hook):
    with pytest.raises(jdl.Error, match=r"pair \(every, function\)"):
        train(tmp_path, hooks=[hook])
    assert not list(tmp_path.iterdir())


def evaluated(result, split="valid"):
    return [
        step
        for step in range(1, int(result.state.step) + 1)
        if any(f'{{"step": {step}, "split": "{split}"' in line for line in lines(result))
    ]


def test_evaluation_costs_a_tenth_of_a_short_training_by_default(tmp_path):
    """143 rows forward, against 24 rows a step forward and backward: every 20 steps."""
    run = kitchen_sink.run(kitchen_sink.Config(name="kitchen_sink", steps=20))
    assert run.valid.num_examples == 143
    assert default_eval_every(run) == 20
    assert evaluated(train(tmp_path / "short", steps=20)) == [20]
    long = kitchen_sink.run(kitchen_sink.Config(name="kitchen_sink", steps=1_000))
    assert default_eval_every(long) == 50
    without_grads = replace(
        run, learner=jdl.population(run.learner, (0, 1))
    )  # no sum over its batch
    assert default_eval_every(without_grads) == 10
