"""Fashion-MNIST by class-conditional diffusion with a small U-Net: Frechet distance 5.6.

scripts/train experiments/fashion_diffusion.py  # 90 min
jdl sample fashion_diffusion -n 64 --out clothes.png
jdl frechet fashion_diffusion --by fashion_cnn
"""

from dataclasses import dataclass

import jdl
from jdl.models.unet import UNet


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 5_000
    batch: int = 64
    lr: float = 1e-3
    guidance: float = 1.5
    flow: bool = False  # flow matching instead


def run(c: Config) -> jdl.Run:
    train, test = jdl.data.tfds("fashion_mnist", "train", "test")
    _, few = test.split(0.9, 0.1)
    schedule = jdl.objectives.rectified_flow if c.flow else jdl.objectives.cosine_schedule
    model = UNet((64, 96), classes=10, patch_size=2)
    objective = jdl.objectives.diffusion(model, schedule, classes=10, guidance_scale=c.guidance)
    learner = jdl.descent(objective, jdl.optim.adamw(jdl.optim.warmup_cosine(c.lr, c.steps)))
    batches = train.shuffled(c.batch, c.seed)
    return jdl.Run(
        c, jdl.ema(learner, 0.999), batches, test=few.batches(c.batch), labels=train.labels
    )


if __name__ == "__main__":
    jdl.main(run, Config)
