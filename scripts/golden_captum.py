"""Writes tests/golden/captum.npz: a small CNN, images, and what Captum says of its predictions.

It needs PyTorch and Captum, which the tests do not:

    python scripts/golden_captum.py
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from captum.attr import IntegratedGradients, LayerGradCam, Occlusion, Saliency
from torch import nn

CHOSEN, BASELINE, STEPS = [1, 3], 0.25, 16

torch.manual_seed(0)
conv = nn.Conv2d(2, 4, 3, padding=1)
model = nn.Sequential(
    conv, nn.GELU(approximate="tanh"), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4 * 4 * 3, 5)
)
model[4].weight.data.mul_(10)
x = torch.rand(2, 2, 8, 6)
made = {
    "saliency": Saliency(model).attribute(x, CHOSEN, abs=False),
    "integrated_gradients": IntegratedGradients(model).attribute(
        x, BASELINE, CHOSEN, n_steps=STEPS, method="riemann_middle"
    ),
    "occlusion": Occlusion(model).attribute(
        x, (2, 2, 2), (2, 1, 1), target=CHOSEN, baselines=BASELINE
    ),
    "grad_cam": LayerGradCam(model, conv).attribute(x, CHOSEN, relu_attributions=True),
}
arrays = {name: out.detach().numpy().transpose(0, 2, 3, 1) for name, out in made.items()}
arrays |= {
    "x": x.numpy().transpose(0, 2, 3, 1),
    "conv": conv.weight.detach().numpy().transpose(2, 3, 1, 0),
    "conv_bias": conv.bias.detach().numpy(),
    # Flax flattens (H, W, C), PyTorch (C, H, W).
    "dense": model[4].weight.detach().numpy().reshape(5, 4, 4, 3).transpose(2, 3, 1, 0),
    "dense_bias": model[4].bias.detach().numpy(),
    "version": np.asarray(version("captum")),
}
path = Path(__file__).parents[1] / "tests" / "golden" / "captum.npz"
np.savez_compressed(path, **arrays)
print(f"{path.name}: {path.stat().st_size:,} bytes, Captum {arrays['version']}")
