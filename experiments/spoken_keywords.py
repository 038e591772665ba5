"""Ten keywords, other words and silence, in noise (keyword spotting): not measured yet.

scripts/train experiments/spoken_keywords.py --seed 0
"""

from dataclasses import dataclass

import jdl
from jdl.layers import SpecAugment
from jdl.metrics import balanced_accuracy, one_vs_rest
from jdl.models.sound_cnn import SoundCNN


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 1_500
    batch: int = 64
    rows: int = 6_000
    lr: float = 3e-3
    dropout: float = 0.2
    max_time: int = 8  # frames of 10 ms that a mask of SpecAugment covers
    max_freq: int = 4


def run(c: Config) -> jdl.Run:
    train, valid, test = jdl.data.spoken_keywords(c.rows)
    masks = SpecAugment(max_time=c.max_time, max_freq=c.max_freq)
    model = SoundCNN(len(train.labels), 16_000, dropout=c.dropout, augment=masks)
    voice = one_vs_rest(balanced_accuracy, train.labels.index("silence"))  # voice activity
    objective = jdl.objectives.with_metrics(jdl.objectives.classify(model), voice=voice)
    learner = jdl.descent(objective, jdl.optim.adamw(jdl.optim.warmup_cosine(c.lr, c.steps)))
    mix = jdl.data.mix_noise
    loud = train.shuffled(c.batch, c.seed, mix(train.noise, (-5, 30), probability=0.9))
    noisy = {f"{snr}dB": test.map(mix(test.noise, snr)).batches(400) for snr in (20, 10, 5, 0)}
    score = jdl.objectives.metrics_by_set(objective, noisy)
    data = loud, valid.map(mix(valid.noise, (0, 20))).batches(400), test.batches(400)
    return jdl.Run(c, learner, *data, best="max accuracy", labels=train.labels, score=score)


if __name__ == "__main__":
    jdl.main(run, Config)
