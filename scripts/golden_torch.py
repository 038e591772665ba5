"""Writes tests/golden/torch.npz: inputs, weights and outputs of PyTorch's layers.

These are its RNN, LSTM, GRU and multi-head attention. It needs PyTorch, which the tests do not:

    python scripts/golden_torch.py
"""

from pathlib import Path

import numpy as np
import torch

ROWS, STEPS, INPUTS, WIDTH, HEADS = 3, 7, 5, 8, 2


def weights(prefix: str, module: torch.nn.Module) -> dict[str, np.ndarray]:
    """The weights of a module by their names."""
    return {f"{prefix}.{name}": value.detach().numpy() for name, value in module.named_parameters()}


torch.manual_seed(0)
lengths = torch.tensor([7, 4, 2])
x, wide = torch.randn(ROWS, STEPS, INPUTS), torch.randn(ROWS, STEPS, WIDTH)
arrays = {"x": x.numpy(), "wide": wide.numpy(), "lengths": lengths.numpy()}
for name, kind in (("lstm", torch.nn.LSTM), ("gru", torch.nn.GRU), ("rnn", torch.nn.RNN)):
    module = kind(INPUTS, WIDTH, num_layers=2, bidirectional=True, batch_first=True)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
    outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(module(packed)[0], batch_first=True)
    arrays |= {f"{name}.outputs": outputs.detach().numpy(), **weights(name, module)}
module = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
torch.nn.init.normal_(module.in_proj_bias)
causal = torch.ones(STEPS, STEPS, dtype=torch.bool).triu(1)
padding = torch.arange(STEPS)[None] >= lengths[:, None]
for name, options in (("causal", {"attn_mask": causal}), ("padded", {"key_padding_mask": padding})):
    outputs, _ = module(wide, wide, wide, need_weights=False, **options)
    arrays[f"attention.{name}"] = outputs.detach().numpy()
arrays |= weights("attention", module)
arrays["version"] = np.asarray(torch.__version__)
path = Path(__file__).parents[1] / "tests" / "golden" / "torch.npz"
path.parent.mkdir(exist_ok=True)
np.savez_compressed(path, **arrays)
print(f"{path.name}: {path.stat().st_size:,} bytes, PyTorch {torch.__version__}")
