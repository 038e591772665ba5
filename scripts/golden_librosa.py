"""Writes tests/golden/librosa.npz: a waveform, and librosa's mel spectrograms of it.

It needs librosa, which the tests do not:

    python scripts/golden_librosa.py
"""

from pathlib import Path

import librosa
import numpy as np

SETTINGS = {  # arguments of librosa.feature.melspectrogram
    "speech": {"n_fft": 400, "hop_length": 160, "n_mels": 40},
    "music": {"n_fft": 1024, "hop_length": 256, "n_mels": 64, "fmin": 20.0, "fmax": 7_600.0},
    "odd": {"n_fft": 401, "hop_length": 301, "n_mels": 20, "pad_mode": "reflect"},
}
RATE = 16_000

rng = np.random.default_rng(0)
time = np.arange(RATE // 5) / RATE
x = 0.3 * np.sin(2 * np.pi * (300 + 9_000 * time) * time) + 0.05 * rng.standard_normal(len(time))
x[: RATE // 40] = 0  # silence, which the floor is for
x = np.round(x * 2**15).clip(-(2**15), 2**15 - 1).astype(np.int16)
waveform = x.astype(np.float32) / 2**15
arrays = {"x": x, "version": np.asarray(librosa.__version__)}
for name, settings in SETTINGS.items():
    power = librosa.feature.melspectrogram(y=waveform, sr=RATE, **settings)
    arrays[f"{name}.log"] = np.log(np.maximum(power, 1e-10)).T
    arrays[f"{name}.decibels"] = librosa.power_to_db(power, top_db=None).T[::4]
    arrays[f"{name}.filters"] = librosa.filters.mel(
        sr=RATE, **{k: v for k, v in settings.items() if k not in ("hop_length", "pad_mode")}
    ).sum(0)
path = Path(__file__).parents[1] / "tests" / "golden" / "librosa.npz"
np.savez_compressed(path, **arrays)
print(f"{path.name}: {path.stat().st_size:,} bytes, librosa {librosa.__version__}")
