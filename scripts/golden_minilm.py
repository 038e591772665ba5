"""Writes tests/golden/minilm.npz: token ids, and the last hidden states of transformers' MiniLM.

It needs PyTorch and transformers, which the tests do not, and `jdl data fetch minilm`:

    python scripts/golden_minilm.py DIR
"""

import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import load_file

folder = Path(sys.argv[1])
config = transformers.BertConfig.from_json_file(folder / "config.json")
model = transformers.BertModel(config).eval()
missing, unexpected = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
assert not [name for name in missing if "position_ids" not in name], missing
vocabulary = {
    word: n for n, word in enumerate((folder / "vocab.txt").read_text("utf-8").splitlines())
}
sentences = [
    "[CLS] a function of the seed is repeated to the bit . [SEP]",
    "[CLS] the cat sat [SEP]",
]
ids = [[vocabulary[word] for word in sentence.split()] for sentence in sentences]
longest = max(map(len, ids))
mask = np.asarray([[n < len(row) for n in range(longest)] for row in ids])
tokens = np.asarray([row + [0] * (longest - len(row)) for row in ids])
with torch.no_grad():
    states = model(torch.tensor(tokens), torch.tensor(mask)).last_hidden_state.numpy()
path = Path(__file__).parents[1] / "tests" / "golden" / "minilm.npz"
np.savez_compressed(path, tokens=tokens.astype(np.int32), mask=mask, states=states)
versions = f"transformers {transformers.__version__}, PyTorch {torch.__version__}"
print(f"{path.name}: {path.stat().st_size:,} bytes, {versions}")
