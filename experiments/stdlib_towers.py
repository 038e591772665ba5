"""Modules that a file of Python's standard library imports, by two towers: not measured yet.

scripts/train experiments/stdlib_towers.py
"""

from dataclasses import dataclass

from sklearn.feature_extraction.text import TfidfVectorizer

import jdl
from jdl.models.two_towers import TwoTowers


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 200
    batch: int = 32
    lr: float = 5e-3
    width: int = 64


def run(c: Config) -> jdl.Run:
    train, valid, test = jdl.data.stdlib_imports()
    parts = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), min_df=2)  # of their names
    features = parts.fit_transform(train.labels).toarray()
    model = TwoTowers(len(train.labels), c.width, features=features)
    objective = jdl.objectives.recommend(model, "in_batch", counts=train.item_counts)
    learner = jdl.descent(objective, jdl.optim.adamw(jdl.optim.warmup_cosine(c.lr, c.steps)))
    data = train.shuffled(c.batch, c.seed, jdl.data.shuffle_items), valid.batches(256)
    return jdl.Run(c, learner, *data, test=test.batches(256), best="max ndcg_at_10")


if __name__ == "__main__":
    jdl.main(run, Config)
