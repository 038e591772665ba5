"""Images without a channel axis are refused where Flax would take a batch for one image.

Seen to fail: without the interceptor such a run was trained, and its rows were mixed.
"""

import flax.linen as nn
import numpy as np
import optax
import pytest
from flax import nnx

import jdl
from jdl.train.check import check_run


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.Conv(3, (3, 3))(x).reshape(x.shape[0], -1))


class NNXNet(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(5, 3, (3, 3), rngs=rngs)
        self.head = nnx.Linear(75, 2, rngs=rngs)

    def __call__(self, x):
        x = x if x.ndim == 3 else x.repeat(5, -1)
        return self.head(self.conv(x).reshape(len(x), -1)[:, :75])


@pytest.mark.parametrize("model", [Net(), jdl.nnx(NNXNet)], ids=["linen", "nnx"])
@pytest.mark.parametrize("channels", [(), (1,)])
def test_images_without_channels_are_refused(channels, model):
    x, y = np.ones((8, 5, 5, *channels), np.float32), np.arange(8) % 2
    data = jdl.data.arrays(x=x, y=y)
    learner = jdl.descent(jdl.objectives.classify(model), optax.sgd(0.1))
    run = jdl.Run(jdl.Config(name="n", steps=2), learner, data.shuffled(4, 0))
    if channels:
        check_run(run)
        return
    with pytest.raises(jdl.Error, match=r"no channel axis: Conv .*\(4, 5, 5\).*x\[..., None\]"):
        check_run(run)
