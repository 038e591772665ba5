"""Data as a function of the step: sources, order, batches, augmentation."""

from jdl.data.augment import normalise as normalise
from jdl.data.augment import random_affine as random_affine
from jdl.data.augment import random_crop as random_crop
from jdl.data.augment import random_erase as random_erase
from jdl.data.augment import random_flip as random_flip
from jdl.data.loader import DatasetLoader as DatasetLoader
from jdl.data.corpus import Bytes as Bytes
from jdl.data.corpus import Subwords as Subwords
from jdl.data.corpus import bpe as bpe
from jdl.data.corpus import text as text
from jdl.data.corpus import text_pairs as text_pairs
from jdl.data.corpus import tokenizer_file as tokenizer_file
from jdl.data.dataset import Dataset as Dataset
from jdl.data.dataset import arrays as arrays
from jdl.data.dataset import digits as digits
from jdl.data.dataset import episodes as episodes
from jdl.data.fetch import fetched as fetched
from jdl.data.graphs import Graph as Graph
from jdl.data.graphs import cora as cora
from jdl.data.graphs import graph as graph
from jdl.data.graphs import nearest as nearest
from jdl.data.sequence_pairs import pronunciations as pronunciations
from jdl.data.sequence_pairs import translation as translation
from jdl.data.tfds_records import tfds as tfds
from jdl.data.time_series import electricity as electricity
from jdl.data.time_series import windows as windows
