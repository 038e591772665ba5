"""Folders of sounds, and log-mel spectrograms against librosa's.

Seen to fail: a header's claim that is not compared with the file's size, a header before zeros.
"""

import io
import sys
from unittest import mock

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

import jdl
from jdl.data import audio_folder, sound_files, sounds
from jdl.layers import LogMel

RATE = 8_000
RNG = np.random.default_rng(0)


def tone(seconds=0.5, rate=RATE, pitch=440.0, channels=1):
    time = np.arange(round(seconds * rate)) / rate
    one = 0.5 * np.sin(2 * np.pi * pitch * time) + 0.01 * RNG.standard_normal(len(time))
    return np.stack([one * (n + 1) / channels for n in range(channels)], 1).astype(np.float32)


def save(path, samples=None, rate=RATE, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone() if samples is None else samples, rate, **options)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JDL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    save(tmp_path / "s" / "high" / "a.wav", tone(0.3, channels=2), subtype="FLOAT")
    save(tmp_path / "s" / "high" / "b.flac", tone(0.7))
    save(tmp_path / "s" / "low" / "c.wav", tone(0.25, 11_025), 11_025, subtype="FLOAT")
    save(tmp_path / "s" / "low" / "d.wav", tone(0.8, 44_100), 44_100, subtype="FLOAT")
    save(tmp_path / "s" / "low" / "e.ogg", np.zeros((800, 1), np.float32))
    save(tmp_path / "s" / "low" / "f.mp3", tone(0.4, 16_000), 16_000)
    return tmp_path / "s"


def test_the_waveforms_are_cut_padded_averaged_and_resampled(folder):
    data = audio_folder(folder, RATE, 0.5)
    columns = data.columns
    assert data.labels == ("high", "low")
    assert columns["y"].tolist() == [0, 0, 1, 1, 1, 1]
    assert columns["x"].shape == (6, 4_000)
    assert columns["x"].dtype == np.float32
    assert columns["length"].tolist()[:5] == [2_400, 4_000, 2_000, 4_000, 800]
    for row, path in enumerate(data.source.files.paths):
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        whole = resample_poly(samples.mean(1), RATE, rate)[:4_000]
        x, length = columns["x"][row], columns["length"][row]
        assert length == len(whole), path.name
        np.testing.assert_allclose(x[:length], whole, atol=1e-6, err_msg=path.name)
        assert not x[length:].any()
    assert audio_folder(folder, RATE, 0.6).fingerprint != data.fingerprint


def test_a_resampled_tone_is_the_tone():
    """Away from the ends, within 2e-3 of the tone at the new rate: the ripple of the filter."""
    waves = {rate: np.sin(2 * np.pi * 440 * np.arange(rate) / rate) for rate in (RATE, 44_100)}
    new = sound_files.resampled(waves[44_100].astype(np.float32), 44_100, RATE)
    np.testing.assert_allclose(new[100:-100], waves[RATE][100:-100], atol=2e-3)


def test_streamed_and_in_memory_the_rows_are_the_same(folder):
    whole, streamed = (audio_folder(folder, RATE, 0.5, stream=stream) for stream in (False, True))
    assert streamed.fingerprint == whole.fingerprint
    assert streamed.bounds == whole.bounds
    for name, column in whole.shuffled(3, 0)[1].items():
        np.testing.assert_array_equal(streamed.shuffled(3, 0)[1][name], column)


def wav(samples=None, size=None, **options):
    """The bytes of a WAV file; `size` is what its header claims for the samples."""
    file = io.BytesIO()
    soundfile.write(file, tone() if samples is None else samples, RATE, format="WAV", **options)
    content = bytearray(file.getvalue())
    if size is not None:
        place = content.index(b"data") + 4
        content[place : place + 4] = size.to_bytes(4, "little")
    return bytes(content)


def claims(content, place, number, width):
    return content[:place] + number.to_bytes(width, "little") + content[place + width :]


def flac():
    file = io.BytesIO()
    soundfile.write(file, tone(), RATE, format="FLAC")
    return file.getvalue()


def flac_of_10_gb():
    """A FLAC file whose header claims 5 billion samples: 36 bits from the fourth of byte 21 on."""
    content = bytearray(flac())
    content[21] |= 0x0F
    content[22:26] = b"\xff\xff\xff\xff"
    return bytes(content)


BAD = {
    "cut.wav": (lambda: wav()[:-1_000], "truncated: its header claims 1,000 bytes more"),
    "large.wav": (lambda: wav(size=4_000_000_000), "truncated: its header claims 3,999"),
    "cut.flac": (lambda: flac()[:-1_000], "truncated|lost sync|decoder|failed|error"),
    "large.flac": (flac_of_10_gb, "truncated|error|failed"),
    "nan.wav": (lambda: wav(np.full(9, np.nan, np.float32), subtype="FLOAT"), "NaN"),
    "fast.wav": (lambda: claims(wav(), 24, 2_000_000_000, 4), "2,000,000,000 samples a second"),
    "wide.wav": (lambda: claims(claims(wav(), 22, 1_000, 2), 32, 2_000, 2), "1000 channels|Error"),
    "empty.wav": (lambda: b"", "Format not recognised"),
    "text.mp3": (lambda: b"hello", "Format not recognised"),
    "phone.m4a": (lambda: b"\0\0\0\x18ftypM4A " + bytes(99), "Format not recognised"),
}


def test_sounds_that_cannot_be_read_are_an_error_or_a_counted_skip(folder):
    clean = audio_folder(folder, RATE, 0.5)
    for name, (content, _) in BAD.items():
        (folder / "low" / name).write_bytes(content())
    with pytest.raises(jdl.Error, match="10 of 16 files cannot be read"):
        audio_folder(folder, RATE, 0.5)
    with pytest.warns(UserWarning, match="10 of 16 files"):
        data = audio_folder(folder, RATE, 0.5, on_bad="skip")
    assert data.fingerprint == clean.fingerprint
    for name, (_, reason) in BAD.items():
        (told,) = (text for text in data.source.skipped if f"/{name}: " in text)
        assert any(word in told for word in reason.split("|")), told


def test_a_header_before_zeros_ends_soon(tmp_path):
    content = b"RIFF\0\0\0\0WAVE" + bytes(1 << 20)
    (tmp_path / "a.wav").write_bytes(content)
    with open(tmp_path / "a.wav", "rb") as file, mock.patch.object(sound_files, "CHUNKS", 3):
        reads = mock.Mock(wraps=file)
        assert sound_files._missing_bytes(reads) == 0
    assert reads.read.call_count == 1 + 2 * 3


def test_a_wav_of_unknown_length_is_read(folder):
    """Recorders that write into a pipe leave the size at its largest."""
    (folder / "low" / "pipe.wav").write_bytes(wav(size=0xFFFF_FFFF))
    assert audio_folder(folder, RATE, 0.5).columns["length"][-1] == 4_000


def test_refused(folder, tmp_path, monkeypatch):
    for rate, seconds, message in (
        (100, 1, "rate is samples a second"),
        (16e3, 1, "an integer as 16_000, not 16000.0"),
        (RATE, 0, "above 0"),
        (RATE, float("nan"), "above 0 and finite"),
        (RATE, 1e-9, "no sample"),
    ):
        with pytest.raises(jdl.Error, match=message):
            audio_folder(folder, rate, seconds)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(jdl.Error, match=r"pip install 'jdl\[audio\]'"):
        audio_folder(folder, RATE, 1)


def test_sounds_of_a_table(folder):
    table = folder / "t.csv"
    table.write_text("path,pitch\nlow/c.wav,440\nhigh/b.flac,441.5\n")
    data = sounds(folder, table, RATE, 0.1, file="path", target="pitch")
    assert data.columns["y"].tolist() == [440, 441.5]


MELS = {
    "speech": {"n_mels": 40},
    "music": {"n_fft": 1024, "hop": 256, "fmin": 20.0, "fmax": 7_600.0},
    "odd": {"n_fft": 401, "hop": 301, "n_mels": 20, "reflect": True},
}


@pytest.mark.parametrize("name", MELS)
def test_log_mel_spectrograms_equal_those_of_librosa(root, name):
    golden = np.load(root / "tests" / "golden" / "librosa.npz")
    x = jnp.asarray(golden["x"].astype(np.float32) / 2**15)[None]
    layer = LogMel(16_000, **MELS[name])
    found = layer.apply({}, x)[0]
    np.testing.assert_allclose(found, golden[f"{name}.log"], atol=1e-4)
    found = layer.copy(decibels=True).apply({}, x)[0]
    np.testing.assert_allclose(found[::4], golden[f"{name}.decibels"], atol=1e-4)


@pytest.mark.slow
def test_log_mel_layers_have_gradients_types_and_exports():
    layer = LogMel(RATE, n_fft=64, hop=20, n_mels=8)
    x, direction = jnp.asarray(np.random.default_rng(1).standard_normal((2, 1, 400), np.float32))

    def total(x):
        return layer.apply({}, x).sum()

    slope = (total(x + 1e-3 * direction) - total(x - 1e-3 * direction)) / 2e-3
    assert float((jax.grad(total)(x) * direction).sum()) == pytest.approx(float(slope), rel=2e-2)
    assert np.isfinite(jax.grad(total)(jnp.zeros_like(x))).all()
    assert layer.init(jax.random.key(0), x) == {}
    assert layer.apply({}, x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    assert layer.frames_of(jnp.asarray([0, 1, 20, 21])).tolist() == [0, 1, 1, 2]
    shape = jax.export.symbolic_shape("b, 400")
    rows = jax.ShapeDtypeStruct(shape, jnp.float32)
    exported = jax.export.export(jax.jit(lambda x: layer.apply({}, x)))(rows)
    three = jnp.concatenate([x, 2 * x, x[:, ::-1]])
    np.testing.assert_allclose(exported.call(three), layer.apply({}, three), atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (LogMel(RATE, n_mels=300), (1, 800), "too many for n_fft=400"),
        (LogMel(RATE, fmax=5_000.0), (1, 800), "between 0 and half the rate"),
        (LogMel(RATE), (1, 800, 1), "needs waveforms"),
        (LogMel(RATE, reflect=True), (1, 200), "of more than 200 samples"),
    ],
)
def test_log_mel_layers_that_cannot_be_are_refused(layer, shape, message):
    with pytest.raises(jdl.Error, match=message):
        layer.apply({}, jnp.zeros(shape))
