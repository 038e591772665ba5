"""Images without a channel axis are refused where Flax would take a batch for one image.

Seen to fail: without the interceptor such a run was trained, and its rows were mixed.
"""

import flax.linen as nn
import numpy as np
import optax
import pytest

import jdl
from jdl.train.check import check_run


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.Conv(3, (3, 3))(x).reshape(x.shape[0], -1))


@pytest.mark.parametrize("channels", [(), (1,)])
def test_images_without_channels_are_refused(channels):
    x, y = np.ones((8, 5, 5, *channels), np.float32), np.arange(8) % 2
    data = jdl.data.arrays(x=x, y=y)
    learner = jdl.descent(jdl.objectives.classify(Net()), optax.sgd(0.1))
    run = jdl.Run(jdl.Config(name="n", steps=2), learner, data.shuffled(4, 0))
    if channels:
        check_run(run)
        return
    with pytest.raises(jdl.Error, match=r"no channel axis: Conv .*\(4, 5, 5\).*x\[..., None\]"):
        check_run(run)
