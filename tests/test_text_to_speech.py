"""Text to speech: alignment, Griffin-Lim, the objective, WAV files, and a recognizer that listens.

Seen to fail: an alignment without scores or without the prior of a diagonal, a length regulator
that is off by one, phases that stay random, powers by the pseudo-inverse alone, a row that cannot
be aligned and counts, lines that are not brought to lower case, the length of the recording in
place of that of the speech, and numbers that are in no split.
"""

from dataclasses import dataclass, replace
from itertools import combinations
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import soundfile
from PIL import Image
from scipy.optimize import nnls

import jdl
from jdl.data.spoken_numbers import in_words
from jdl.figures.speech import draw_speech
from jdl.inspect.listening import listen
from jdl.inspect.predict import predict
from jdl.inspect.restore import TrainedRun
from jdl.layers import LogMel, griffin_lim, monotonic_alignment, token_of_frames
from jdl.layers.griffin_lim import mel_to_power
from jdl.layers.log_mel import mel_filters
from jdl.models.cnn import CNN
from jdl.models.fast_speech import FastSpeech
from jdl.models.transformer import TransformerConfig
from jdl.objectives import text_to_speech
from jdl.types import LossOutput, Mean, Objective

RATE, SAMPLES = 8_000, 2_560
STEPS = 100
LABELS = ("", " ", "a", "b")
LOG_MEL = LogMel(RATE, 128, 64, 8, floor=1e-5)
CONFIG = TransformerConfig(width=8, depth=1, heads=2, mlp_width=8)
MODEL = FastSpeech(len(LABELS), 8, CONFIG, decoder_depth=1, kernel=3)
OBJECTIVE = text_to_speech(MODEL, LOG_MEL, max_frames=40, iterations=2)


class Steps(Objective):
    """Says texts as steps: 100 samples of a letter's number, which compiles in no time."""

    def init(self, key, batch):
        return {"params": {"none": jnp.zeros(1)}}

    def predict(self, variables, batch):
        waveform = jnp.repeat(batch["y"].astype(jnp.float32) / 4, 100, 1)
        rate = jnp.full(len(waveform), RATE)
        return {"waveform": waveform, "length": batch["y_length"] * 100, "rate": rate}


class Ears(Objective):
    """A recognizer that hears such steps alone, at a rate."""

    def __init__(self, rate):
        self.model = SimpleNamespace(rate=rate)

    def init(self, key, batch):
        return {"params": {"none": jnp.zeros(1)}}

    def loss(self, variables, batch, key, train):
        assert batch["x"].shape[1] == SAMPLES
        wrong = batch["x"][:, :400:100] != batch["y"].astype(jnp.float32) / 4
        wrong = wrong.any(1) | (batch["length"] != 100 * batch["y_length"])
        error = Mean.of(wrong.astype(jnp.float32), batch["mask"])
        return LossOutput(error, {"word_error_rate": error}, {})


@dataclass(frozen=True)
class Config(jdl.Config):
    name: str = "says"
    steps: int = 1


def untrained(objective, data, config=Config()):
    """A run that was not trained."""
    learner = jdl.descent(objective, optax.adam(1e-3))
    run = jdl.Run(config, learner, data.shuffled(6, 0), None, data.batches(4), labels=LABELS)
    return TrainedRun(run, jax.jit(learner.init)(jax.random.key(0), run.train[0]))


@pytest.fixture(scope="module")
def data():
    """Noise of different lengths, and texts of up to four letters."""
    rng = np.random.default_rng(0)
    length = SAMPLES - 300 * np.arange(6)
    x = 0.3 * rng.standard_normal((6, SAMPLES)) * (np.arange(SAMPLES) < length[:, None])
    y_length = 1 + np.arange(6) % 4
    y = np.asarray([[2, 3, 1, 3]]) * (np.arange(4) < y_length[:, None])
    return jdl.data.arrays(LABELS, x=x, length=length, y=y, y_length=y_length)


@pytest.fixture(scope="module")
def speaker(data):
    return untrained(Steps(), data)


def best_durations(scores, tokens, frames):
    """The durations by all ways to cut the frames, with which the scores sum up to the most."""
    found = None
    for cuts in combinations(range(1, frames), tokens - 1):
        durations = np.diff([0, *cuts, frames])
        places = np.repeat(np.arange(tokens), durations)
        total = scores[places, np.arange(frames)].sum()
        if found is None or total > found[0]:
            found = total, durations
    return np.pad(found[1], (0, len(scores) - tokens))


def test_alignment_is_the_best_of_all():
    scores = np.random.default_rng(0).standard_normal((6, 4, 8)).astype(np.float32)
    tokens, frames = np.asarray([4, 3, 1, 4, 2, 4]), np.asarray([8, 6, 8, 4, 7, 8])
    durations = jax.jit(monotonic_alignment)(scores, tokens, frames)
    expected = [best_durations(*row) for row in zip(scores, tokens, frames, strict=True)]
    np.testing.assert_array_equal(durations, expected)
    impossible = monotonic_alignment(scores, np.full(6, 4), np.asarray([3, 2, 1, 0, 3, 3]))
    assert (np.asarray(impossible).sum(1) == [3, 2, 1, 0, 3, 3]).all()


def test_frames_get_their_tokens():
    places = token_of_frames(jnp.asarray([[2, 1, 3], [0, 4, 0]]), 7)
    np.testing.assert_array_equal(places, [[0, 0, 1, 2, 2, 2, 3], [1, 1, 1, 1, 3, 3, 3]])


def test_griffin_lim_sounds_as_the_spectrogram_says():
    """The spectral convergence of two voiced sounds, and silence; better by the iterations."""
    log_mel = LogMel(RATE, 256, 64, 32, floor=1e-5)
    t = np.arange(4_096) / RATE
    phases = 2 * np.pi * np.stack([150 * t + 40 * t**2, 220 * t, 0 * t])
    x = sum(np.sin(k * phases) / k for k in range(1, 12)).astype(np.float32) / 4
    frames = log_mel.apply({}, x)[:, : 4_096 // 64]

    def error(x):
        found, true = (np.exp(f[:, :-4] / 2) for f in (log_mel.apply({}, x)[:, :64], frames))
        return np.linalg.norm(found - true, axis=(1, 2)) / np.linalg.norm(true, axis=(1, 2))

    few, many = (jax.jit(lambda f, n=n: griffin_lim(log_mel, f, n))(frames) for n in (0, 60))
    assert many.shape == x.shape
    assert (error(many)[:2] < 0.12).all()
    assert (error(few)[:2] > 2 * error(many)[:2]).all()
    assert np.abs(many[2]).max() < 0.01
    with pytest.raises(jdl.Error, match="a hop of up to 128"):
        griffin_lim(LogMel(RATE, 256, 160, 32), frames)


def test_power_is_near_that_of_non_negative_least_squares():
    log_mel = LogMel(RATE, 128, 32, 16)
    mel = np.random.default_rng(0).exponential(size=(1, 5, 16)).astype(np.float32)
    power = np.asarray(mel_to_power(log_mel, np.log(mel)))[0]
    filters = mel_filters(RATE, 128, 16)
    assert (power >= 0).all()
    for row, wanted in zip(power, mel[0], strict=True):
        _, residual = nnls(filters.T, wanted)
        assert np.linalg.norm(row @ filters - wanted) < residual + 0.05 * np.linalg.norm(wanted)


@pytest.mark.slow
def test_what_is_padding_changes_nothing(data):
    batch = data.batches(6)[0]
    variables = jax.jit(OBJECTIVE.init)(jax.random.key(0), batch)
    loss = jax.jit(lambda batch: OBJECTIVE.loss(variables, batch, jax.random.key(1), False))
    output = loss(batch)
    assert float(output.metrics["aligned"].value()) == 1
    padding = jnp.arange(4)[None] >= batch["y_length"][:, None]
    changed = {**batch, "y": jnp.where(padding, 3, batch["y"])}
    np.testing.assert_allclose(loss(changed).loss.total, output.loss.total, rtol=1e-5)
    beyond = jnp.arange(SAMPLES)[None] >= batch["length"][:, None]
    noisy = loss({**batch, "x": jnp.where(beyond, 0.5, batch["x"])})
    np.testing.assert_array_equal(noisy.loss.total, output.loss.total)
    without = loss({**batch, "mask": batch["mask"].at[3].set(False)})
    for column, number in (("length", 130), ("y_length", 0)):
        bad = {column: batch[column].at[3].set(number)}
        refused = loss({**batch, **bad})  # three frames for four letters, or no letter
        np.testing.assert_allclose(refused.loss.total, without.loss.total, rtol=1e-5)
        assert float(refused.loss.count) == 5
        assert float(refused.metrics["aligned"].value()) == pytest.approx(5 / 6)
    silence = loss({**batch, "x": jnp.zeros_like(batch["x"])})
    assert np.isfinite(silence.loss.value())


@pytest.mark.slow
def test_durations_are_learned_from_sounds_and_texts_alone():
    """The letter a is a low tone of 6 frames, b a high one of 14: what is said is as long."""
    letters = np.asarray([[2, 2], [2, 3], [3, 2], [3, 3]])
    pitches, frames = np.asarray([0, 0, 500, 2_000]), np.asarray([0, 0, 6, 14])
    x, length = np.zeros((4, SAMPLES)), 64 * frames[letters].sum(1)
    for row, y in enumerate(letters):
        pitch = np.repeat(pitches[y], 64 * frames[y])
        x[row, : len(pitch)] = 0.3 * np.sin(2 * np.pi / RATE * np.cumsum(pitch))
    batch = jdl.data.arrays(LABELS, x=x, length=length, y=letters).batches(4)[0]
    learner = jdl.descent(OBJECTIVE, optax.adam(1e-2))
    state, step = jax.jit(learner.init)(jax.random.key(0), batch), jax.jit(learner.step)
    for _ in range(STEPS):
        state, metrics = step(state, batch)
    assert float(metrics["mel_error"].value()) < 3
    assert float(metrics["duration_error"].value()) < 0.3
    said = jax.jit(OBJECTIVE.predict)(learner.eval_variables(state), {"y": batch["y"]})
    np.testing.assert_array_equal(said["length"], length)
    silent = np.arange(40) >= length[:, None] / 64
    np.testing.assert_allclose(np.asarray(said["log_mel"])[silent], np.log(1e-5), rtol=1e-6)
    loud = LOG_MEL.apply({}, said["waveform"])[:, 2:10].argmax(-1)
    true = LOG_MEL.apply({}, batch["x"])[:, 2:10].argmax(-1)
    assert (loud == true).mean() > 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": (6, 40, 3)}, "takes waveforms"),
        ({"x": (6, 128)}, "2 frames, which are too few for 4 tokens"),
        ({"y": (6,)}, "takes tokens y"),
        ({"bounds": {"length": (0, 2_624)}}, "up to 41 frames, and .* cut to max_frames=40"),
        ({"bounds": {"y": (-1, 3)}}, "begin at -1: pad y with 0"),
        ({"bounds": {"y": (0, 4)}}, "from 0 to 4, but the model knows those from 0 to 3"),
        ({"model": MODEL.clone(n_mels=9)}, "must give frames of n_mels=8"),
    ],
)
def test_data_that_do_not_fit_are_refused(data, change, message):
    spec, change = dict(data.batches(6).spec), dict(change)
    bounds, model = change.pop("bounds", {}), change.pop("model", MODEL)
    spec |= {n: jax.ShapeDtypeStruct(shape, spec[n].dtype) for n, shape in change.items()}
    with pytest.raises(jdl.Error, match=message):
        text_to_speech(model, LOG_MEL, 40).check(spec, bounds)


def init(config):
    tokens = jnp.ones((1, 2), jnp.int32)
    return MODEL.clone(config=config).init(jax.random.key(0), tokens, tokens)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: text_to_speech(MODEL, LogMel(RATE, decibels=True), 40), "natural logarithms"),
        (lambda: text_to_speech(MODEL, LOG_MEL, 0), "max_frames of 1 or more"),
        (lambda: text_to_speech(CNN(3), LOG_MEL, 40), "methods encode and decode"),
        (lambda: jdl.data.single_speaker_numbers(9), "from 10 to 1,000"),
        (lambda: init(replace(CONFIG, rotary=False)), "FastSpeech has rotary=True"),
    ],
)
def test_settings_that_cannot_be_are_refused(make, message):
    with pytest.raises(jdl.Error, match=message):
        make()


def test_lines_of_a_text_become_sounds(speaker, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("ab\n\nB  a\n")
    rows = predict(speaker, [words], out=tmp_path / "sounds")
    assert [row["text"] for row in rows] == ["ab", "b a"]
    assert [row["input"] for row in rows] == [f"{words}:1", f"{words}:3"]
    for row, number in zip(rows, (1, 3), strict=True):
        assert row["sound"] == str(tmp_path / "sounds" / f"words-{number}.wav")
        waveform, rate = soundfile.read(row["sound"])
        assert rate == RATE
        letters = [LABELS.index(letter) / 4 for letter in row["text"]]
        np.testing.assert_allclose(waveform, np.repeat(letters, 100), atol=1e-4)
        assert row["seconds"] == pytest.approx(len(letters) / 80, abs=1e-3)
    words.write_text("ab\nabab\n")
    with pytest.warns(UserWarning, match=r"words.txt:2: what is said may be cut at 0.05 s") as seen:
        predict(speaker, [words])
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("words.txt", "ab\nabc", "words.txt:2 has 'c', which is none of the labels"),
        ("words.txt", "ababa", "words.txt:1 has 5 characters.*up to 4"),
        ("words.wav", "ab", "is no .txt file"),
    ],
)
def test_texts_that_cannot_be_said_are_refused(speaker, tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(jdl.Error, match=message):
        predict(speaker, [tmp_path / name], out=tmp_path / "sounds")
    assert not (tmp_path / "sounds").exists()


def test_a_recognizer_listens(speaker, data):
    """To every row: the last batch is padded."""
    recognizer = untrained(Ears(RATE), data)
    right = {"loss": 0.0, "word_error_rate": 0.0}
    wrong = {"loss": 1.0, "word_error_rate": 1.0}
    assert listen(speaker, recognizer) == {"recorded": wrong, "synthesized": right}
    some = data.columns
    some["y"][4] = some["y"][5] = 0
    some["x"][5], some["length"][5] = 0, 100 * some["y_length"][5]
    test = jdl.data.arrays(LABELS, **some).batches(4)
    heard = listen(replace(speaker, run=replace(speaker.run, test=test)), recognizer)
    assert heard["recorded"]["word_error_rate"] == pytest.approx(5 / 6)
    assert heard["synthesized"] == right
    fast, bare = untrained(Ears(16_000), data), replace(recognizer.run, labels=LABELS[:3])
    other = replace(recognizer.run, train=jdl.data.arrays(x=np.zeros((4, 3))).batches(4))
    for pair, message in (
        ((speaker, fast), "hears 16000 samples a second, and what is said has 8000"),
        ((speaker, replace(recognizer, run=bare)), "spells by the labels ' a'"),
        ((speaker, replace(recognizer, run=other)), "hears nothing"),
        ((speaker, speaker), "hears nothing"),
        ((recognizer, recognizer), "says nothing that could be heard"),
    ):
        with pytest.raises(jdl.Error, match=message):
            listen(*pair)


def test_spectrograms_are_drawn(speaker, tmp_path):
    (path,) = draw_speech(speaker.run, speaker.variables, tmp_path)
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("L")).astype(float)
    left, right = np.split(pixels[:, :900], 2, 1)
    for side in (left, right):  # both have a spectrogram, neither white nor of one color
        assert (side < 250).mean() > 0.1
        assert side[side < 250].std() > 10
    other = jdl.data.arrays(x=np.zeros((4, 3)), y=np.zeros(4, np.int32)).batches(4)
    assert draw_speech(replace(speaker.run, test=other), speaker.variables, tmp_path) == []


@pytest.mark.slow
def test_numbers_to_test_on_are_never_said_in_training(program):
    parts = jdl.data.single_speaker_numbers(110)
    numbers = [{said(part, y) for y in part.columns["y"]} for part in parts]
    spellings = {n: {in_words(n), in_words(n, "")} for n in range(110)}
    assert set.union(*numbers) == set.union(*spellings.values())
    for of_number in spellings.values():
        assert [bool(of_number & part) for part in numbers].count(True) == 1
    assert [len(part) for part in numbers] == [len(part) for part in parts]
    calls = set((program / "calls").read_text().replace("-z", "").splitlines())
    assert {call.split("--stdout")[0] for call in calls} == {"-v en-us+Alex -p 50 -s 170  "}


def said(part, y):
    return "".join(part.labels[k] for k in y if k)
