"""Pretrained weights in: files, hubs and runs, and the layouts of other libraries.

Also what is computed of weights: averages, task vectors, and models without some of their units.
"""

from jdl.weights.adapters import load_adapters as load_adapters
from jdl.weights.adapters import save_adapters as save_adapters
from jdl.weights.batch_stats import recompute_batch_stats as recompute_batch_stats
from jdl.weights.from_pretrained import from_pretrained as from_pretrained
from jdl.weights.load import load as load
from jdl.weights.load import save as save
from jdl.weights.prune_units import prune_units as prune_units
from jdl.weights.save_pretrained import save_pretrained as save_pretrained
from jdl.weights.soups import add_task_vectors as add_task_vectors
from jdl.weights.soups import greedy_soup as greedy_soup
from jdl.weights.soups import task_vector as task_vector
from jdl.weights.soups import uniform_soup as uniform_soup
