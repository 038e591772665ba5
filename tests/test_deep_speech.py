"""Deep Speech 2, what `jdl predict` hears in a sound file, and the sheet of what was heard.

Seen to fail: samples of padding that are read.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import soundfile
from PIL import Image

import jdl
from jdl.figures import readings
from jdl.figures.readings import draw_readings
from jdl.inspect.predict import predict
from jdl.inspect.restore import TrainedRun
from jdl.models.deep_speech import DeepSpeech2
from jdl.objectives import ctc

RATE, SAMPLES = 8_000, 2_560
MODEL = DeepSpeech2(4, RATE, n_mels=16, n_fft=128, channels=(4, 4, 4), hidden=(8,))
OBJECTIVE = ctc(MODEL, labels=("", " ", "a", "b"), beam=2)


@dataclass(frozen=True)
class Config(jdl.Config):
    name: str = "speech"
    steps: int = 1


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """A folder of sounds and their transcripts, as a dataset."""
    folder = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    lines = ["file,text"]
    for n in range(6):
        samples = 0.3 * rng.standard_normal(SAMPLES - 300 * n)
        soundfile.write(folder / f"{n}.wav", samples, RATE, subtype="FLOAT")
        lines.append(f"{n}.wav,{'ab b'[: 1 + n % 4]}")
    (folder / "said.csv").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JDL_CACHE", str(folder / "cache"))
        data = jdl.data.transcribed_sounds(folder, folder / "said.csv", RATE, SAMPLES / RATE)
    return folder, data


@pytest.fixture(scope="module")
def trained(sounds):
    """A run that was not trained, and hears more than blanks."""
    _, data = sounds
    learner = jdl.descent(OBJECTIVE, optax.adam(1e-3))
    run = jdl.Run(Config(), learner, data.shuffled(6, 0), None, data.batches(4), labels=data.labels)
    state = jax.jit(learner.init)(jax.random.key(0), run.train[0])
    head = state.params["crnn"]["rnn"]["head"]
    head["bias"] = head["bias"].at[0].set(-1.0)
    return TrainedRun(run, state)


@pytest.mark.slow
def test_padding_on_the_right_changes_nothing(trained):
    """Neither its content nor its length; nor does loudness."""

    @jax.jit
    def evaluate(batch):
        loss = OBJECTIVE.loss(trained.variables, batch, jax.random.key(0), True)
        logits = MODEL.apply(trained.variables, batch["x"], mask=real(batch))
        return loss.loss.total, loss.model_state, logits

    def real(batch):
        return jnp.arange(batch["x"].shape[1])[None] < batch["length"][:, None]

    batch = trained.run.train[0]
    batch["length"] = batch["length"] - 700
    x = jnp.where(real(batch), batch["x"], 0)
    batch["x"] = x
    expected = evaluate(batch)
    width = 1_920
    assert width >= batch["length"].max()
    noisy = evaluate({**batch, "x": jnp.where(real(batch), x, 9.0)})
    jax.tree.map(np.testing.assert_array_equal, noisy, expected)
    shorter = evaluate({**batch, "x": x[:, :width]})
    np.testing.assert_allclose(shorter[0], expected[0], rtol=1e-6)
    louder = evaluate({**batch, "x": 3 * x})
    np.testing.assert_allclose(louder[0], expected[0], rtol=1e-3)
    frames = -(-np.asarray(batch["length"]) // 320)
    for row, count in enumerate(frames):
        np.testing.assert_allclose(
            shorter[2][row, :count], expected[2][row, :count], rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(
            louder[2][row, :count], expected[2][row, :count], rtol=1e-2, atol=1e-3
        )


def test_lengths_that_cannot_be_shortened_are_refused():
    with pytest.raises(jdl.Error, match=r"T a multiple of 4 \* hop, 320 samples, and not \(2, 600"):
        MODEL.init(jax.random.key(0), jnp.ones((2, 600)))


@pytest.mark.parametrize("rate", [8_000, 16_000])
def test_by_default_there_is_an_output_for_40_ms_at_any_rate(rate):
    model = DeepSpeech2(3, rate, channels=(4, 4, 4), hidden=(8,))
    x = jnp.zeros((2, rate * 64 // 100))
    shape = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), x)[0]).shape
    assert shape == (2, 16, 3)


@pytest.mark.slow
def test_predict_hears_sound_files_of_any_rate(trained, sounds, tmp_path):
    folder, data = sounds
    rows = predict(trained, [folder / f"{n}.wav" for n in range(6)])
    batch = data.batches(6)[0]
    heard = OBJECTIVE.predict(trained.variables, batch)
    texts = [
        "".join(data.labels[k] for k in labels[:length])
        for labels, length in zip(heard["labels"], heard["length"].tolist(), strict=True)
    ]
    assert [row["labels"] for row in rows] == texts
    assert len(set(texts)) > 1
    soundfile.write(tmp_path / "other.wav", np.sin(np.arange(4_000) / 9), 16_000)
    assert predict(trained, [tmp_path / "other.wav"])[0].keys() == {"input", "labels"}
    soundfile.write(tmp_path / "long.wav", np.zeros(SAMPLES + 1), RATE)
    with pytest.raises(jdl.Error, match=r"long.wav cannot be read: it takes more than 0.32 s"):
        predict(trained, [tmp_path / "long.wav"])


@pytest.mark.slow
def test_what_was_heard_is_drawn(trained, tmp_path):
    (path,) = draw_readings(trained.run, trained.variables, tmp_path)
    with Image.open(path) as image:
        colors = np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)
    assert len(colors) > 100  # of the spectrograms


@pytest.mark.slow
def test_each_sound_is_drawn_for_as_long_as_it_is(trained, tmp_path, monkeypatch):
    """Seen to fail: the number of letters that were heard, in place of that of samples."""
    shares = []
    monkeypatch.setattr(readings, "_draw_spectrogram", lambda axes, x, share: shares.append(share))
    draw_readings(trained.run, trained.variables, tmp_path)
    batch = (trained.run.test or trained.run.valid)[0]
    expected = np.asarray(batch["length"]) / batch["x"].shape[1]
    np.testing.assert_allclose(shares[: len(expected)], expected[: len(shares)], rtol=1e-6)
    assert shares
