"""How well a speech recognizer understands what a text-to-speech run says."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jdl.data.loader import DatasetLoader
from jdl.figures.speech import is_speech
from jdl.inspect.restore import TrainedRun
from jdl.metrics import merge, scalars
from jdl.types import Array, Batch, Error, Metrics, Predicts, Variables


def listen(speaker: TrainedRun, recognizer: TrainedRun) -> dict[str, dict[str, float]]:
    """Intelligibility of text to speech: the word error rate of a speech recognizer that listens.

    The metrics of the recognizer, a run of `jdl.objectives.ctc`, on the speaker's test data, or its
    validation data if there are none: under "synthesized" with the speaker's waveforms of the texts
    y, and for comparison under "recorded" with the data's own x; what is longer than the
    recognizer's own data is cut. Raises `Error` where one of the
    runs is of another task, or they differ in their labels or their rate.
    """
    data, objective = speaker.run.test or speaker.run.valid, speaker.objective
    if (
        not isinstance(data, DatasetLoader)
        or not isinstance(objective, Predicts)
        or not is_speech(objective, speaker.variables, data.spec)
    ):
        raise Error(
            f"{speaker.run.config.name} says nothing that could be heard: name a run of "
            "jdl.objectives.text_to_speech, with test or validation data."
        )
    samples = _samples_of(recognizer, speaker)

    @jax.jit
    def hear(variables: Variables, batch: Batch, x: Array, length: Array) -> Metrics:
        heard = {**batch, "x": _fit(x, samples), "length": length}
        output = recognizer.objective.loss(variables, heard, jax.random.key(0), False)
        return {"loss": output.loss, **output.metrics}

    say = jax.jit(objective.predict)
    metrics: dict[str, list[Metrics]] = {"recorded": [], "synthesized": []}
    for i in range(len(data)):
        batch = data[i]
        said = say(speaker.variables, batch)
        _check_rates(int(said["rate"][0]), recognizer)
        recorded = batch["x"], batch.get("length", jnp.full(len(batch["x"]), batch["x"].shape[1]))
        for name, sound in (
            ("recorded", recorded),
            ("synthesized", (said["waveform"], said["length"])),
        ):
            metrics[name].append(hear(recognizer.variables, batch, *sound))
    return {name: scalars(merge(parts)) for name, parts in metrics.items()}


def _samples_of(recognizer: TrainedRun, speaker: TrainedRun) -> int:
    """How many samples the recognizer reads, if it hears what is spelled by the same labels."""
    spec, name = recognizer.run.train.spec, recognizer.run.config.name
    if (
        not {"x", "y", "length"} <= spec.keys()
        or spec["x"].ndim != 2
        or is_speech(recognizer.objective, recognizer.variables, spec)
    ):
        raise Error(f"{name} hears nothing: name a run of jdl.objectives.ctc over waveforms x.")
    if recognizer.run.labels != speaker.run.labels:
        raise Error(
            f"{name} spells by the labels {''.join(recognizer.run.labels)!r}, and "
            f"{speaker.run.config.name} by {''.join(speaker.run.labels)!r}: train one of them on "
            "data with the labels of the other."
        )
    return int(spec["x"].shape[1])


def _check_rates(rate: int, recognizer: TrainedRun) -> None:
    """Raises `Error` if the recognizer's model reads another number of samples a second."""
    expected = getattr(getattr(recognizer.objective, "model", None), "rate", rate)
    if expected != rate:
        raise Error(
            f"{recognizer.run.config.name} hears {expected} samples a second, and what is said has "
            f"{rate}: train both on sounds of one rate."
        )


def _fit(x: Array, samples: int) -> Array:
    """Waveforms (B, T) cut, or padded with silence, to (B, samples)."""
    return jnp.pad(x, ((0, 0), (0, max(0, samples - x.shape[1]))))[:, :samples]
