"""Pretrained weights in: files, hubs and runs, and the layouts of other libraries."""

from jdl.weights.adapters import load_adapters as load_adapters
from jdl.weights.adapters import save_adapters as save_adapters
from jdl.weights.from_pretrained import from_pretrained as from_pretrained
from jdl.weights.load import load as load
from jdl.weights.load import save as save
from jdl.weights.save_pretrained import save_pretrained as save_pretrained
