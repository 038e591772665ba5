"""Noise at a signal-to-noise ratio, and white noise, pink noise and babble.

Seen to fail: a ratio of amplitudes, not of powers; the power of padding that counts; noise that
stops where its recording ends; pink noise of which all octaves change at once; voices of babble
with the loudness that they had.
"""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jdl
from jdl.data.noise import babble, mix_noise, pink_noise, white_noise

T = 400
NOISE = white_noise(3, 250, 0, "test") * np.float32(0.01)
TONE = np.sin(np.arange(T) / 3 + 1).astype(np.float32)


def decibels(power):
    return 10 * np.log10(power)


@pytest.mark.parametrize("snr", [-5.0, (3.0, 12.0)])
def test_the_ratio_is_the_one_that_was_asked_for(snr):
    keys = jax.random.split(jax.random.key(0), 50)
    mix = mix_noise(NOISE, snr)
    rows = np.asarray(jax.jit(jax.vmap(lambda key: mix(key, {"x": jnp.asarray(TONE)})["x"]))(keys))
    added = rows.astype(np.float64) - TONE
    ratios = decibels(np.square(TONE).mean() / np.square(added).mean(1))
    if isinstance(snr, tuple):
        assert snr[0] <= ratios.min() < snr[0] + 1
        assert snr[1] - 1 < ratios.max() <= snr[1]
    else:
        np.testing.assert_allclose(ratios, snr, atol=1e-3)
    shapes = added / np.sqrt(np.square(added).mean(1, keepdims=True))
    np.testing.assert_allclose(shapes[:, :150], shapes[:, 250:], atol=1e-3)  # around its end
    turned = np.stack([np.roll(row, -n) for row in NOISE for n in range(250)])
    turned = np.concatenate([turned, turned[:, :150]], 1)
    turned /= np.sqrt(np.square(turned).mean(1, keepdims=True))
    found = (shapes @ turned.T / T).argmax(1)
    np.testing.assert_allclose(shapes, turned[found], atol=2e-3)
    assert len(set(found)) > 40
    assert {place // 250 for place in found} == {0, 1, 2}


@pytest.mark.parametrize("length", [None, 100])
def test_padding_and_silence_have_no_power(length):
    tone, after = 2**15 * TONE[:100], 0 if length is None else 9  # what is after length is none
    padded = np.concatenate([tone, np.full(T - 100, after, np.float32)])
    x = np.stack([padded, np.zeros(T, np.float32)])
    columns = {} if length is None else {"length": np.int32(length)}
    mix = mix_noise(np.concatenate([NOISE, np.zeros((3, 250))]), 6.0)  # half of it is silent
    keys = jax.random.split(jax.random.key(1), 20)
    rows = jax.vmap(lambda key, x: mix(key, {"x": x, **columns})["x"], (0, None))
    both = jax.jit(jax.vmap(rows, (None, 0)))(keys, jnp.asarray(x))
    added = np.asarray(both) - x[:, None]
    loud = added[0].any(1)
    assert 4 < loud.sum() < 16
    assert np.isfinite(both).all()
    powers = np.square(added[0, loud, :length]).mean(1)
    np.testing.assert_allclose(decibels(np.square(padded[:100]).mean() / powers), 6, atol=1e-3)
    assert added[0, :, 100:].any() == (length is None)
    assert not added[1].any()


def test_rows_are_functions_of_seed_epoch_and_id():
    data = jdl.data.arrays(x=np.tile(TONE, (8, 1)))
    some = mix_noise(NOISE, (0, 20), probability=0.5)

    def rows(batches, epoch):
        first = epoch * len(batches)
        parts = [batches[i] for i in range(first, first + len(batches))]
        x, ids = (np.concatenate([part[name] for part in parts]) for name in ("x", "id"))
        return x[np.argsort(ids)]

    batches = data.shuffled(4, 0, some)
    first = rows(batches, 0)
    np.testing.assert_array_equal(rows(data.streaming().shuffled(8, 0, some), 0), first)
    assert 1 <= (first == TONE).all(1).sum() <= 7
    assert (rows(batches, 1) != first).any()


def test_what_makes_no_sense_is_refused():
    for noise in (np.zeros(9), np.zeros((0, 9)), np.full((1, 2), np.nan)):
        with pytest.raises(jdl.Error, match=r"noise must be finite recordings \(N, S\)"):
            mix_noise(noise)
    for given in ({"snr": [5, 0]}, {"snr": [5]}, {"snr": np.inf}, {"snr": 0, "probability": 1.5}):
        with pytest.raises(jdl.Error, match="ratios in decibels"):
            mix_noise(NOISE, **given)
    for x in (np.zeros((4, 5, 2), np.float32), np.zeros((4, 5), int)):
        with pytest.raises(jdl.Error, match=r"takes waveforms x \(T,\) of floats"):
            jdl.data.arrays(x=x).shuffled(4, 0, mix_noise(NOISE))[0]


def slope(noise):
    """The exponent of the power of a frequency, fitted from 1/500 to 1/4 of the rate."""
    power = np.square(abs(np.fft.rfft(noise))).mean(0)
    frequency = np.arange(len(power)) / noise.shape[1]
    bands = np.geomspace(1 / 500, 1 / 4, 16)
    inside = np.digitize(frequency, bands)
    means = [decibels(power[inside == n].mean()) for n in range(1, 16)]
    return np.polyfit(decibels(np.sqrt(bands[1:] * bands[:-1])), means, 1)[0]


def test_white_noise_and_pink_noise_have_their_spectra():
    white, pink = (make(20, 8_000, 0, "a") for make in (white_noise, pink_noise))
    assert white.dtype == pink.dtype == np.int16
    assert slope(white) == pytest.approx(0, abs=0.05)
    assert slope(pink) == pytest.approx(-1, abs=0.12)
    assert abs(white.mean()) < 50
    for noise, digest in (
        (white, "5918f60f47fe560d"),
        (pink, "80e988001e181791"),
    ):  # of any version
        assert hashlib.sha256(noise.tobytes()).hexdigest()[:16] == digest
    for make, noise in ((white_noise, white), (pink_noise, pink)):
        assert (make(20, 8_000, 0, "b") != noise).any()
        assert (make(20, 8_000, 1, "a") != noise).any()
    np.testing.assert_array_equal(white_noise(2, 8_000, 0, "a"), white[:2])


def test_babble_is_a_sum_of_voices_of_one_loudness():
    rng = np.random.default_rng(0)
    voices = (rng.normal(size=(2, 3, 200)) * [[[30], [300], [3_000]]]).astype(np.int16)
    length = np.asarray([[200, 100, 50]] * 2, np.int32)
    voices *= np.arange(200) < length[..., None]
    starts = np.asarray([[0, 150, 20], [7, 0, 199]])
    expected = np.zeros((2, 200))
    for row in range(2):
        for k in range(3):
            spoken = voices[row, k].astype(float)
            loudness = np.sqrt(np.square(spoken[: length[row, k]]).mean())
            expected[row] += np.roll(spoken, starts[row, k]) * 1_000 / loudness
    np.testing.assert_allclose(babble(voices, length, starts), expected, atol=2)
    silent = babble(np.zeros((1, 2, 9), np.int16), np.zeros((1, 2), int), np.zeros((1, 2), int))
    assert not silent.any()
