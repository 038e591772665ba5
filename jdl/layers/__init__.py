"""Layers that Flax lacks, or that are replaced for speed or reproducibility."""

from jdl.layers.attention import attention as attention
from jdl.layers.attention import rotary_embedding as rotary_embedding
from jdl.layers.batch_axis import BATCH_AXIS as BATCH_AXIS
from jdl.layers.batch_axis import all_gather_batch as all_gather_batch
from jdl.layers.batch_axis import batch_axis_size as batch_axis_size
from jdl.layers.batch_axis import psum_batch as psum_batch
from jdl.layers.batch_axis import row_keys as row_keys
from jdl.layers.batch_axis import sample_rows as sample_rows
from jdl.layers.conv import convolution as convolution
from jdl.layers.conv_norm import Conv as Conv
from jdl.layers.conv_norm import ConvNorm as ConvNorm
from jdl.layers.dense import Dense as Dense
from jdl.layers.dropout import Dropout as Dropout
from jdl.layers.norm import BatchNorm as BatchNorm
from jdl.layers.norm import LayerNorm as LayerNorm
from jdl.layers.pixel_shuffle import pixel_shuffle as pixel_shuffle
from jdl.layers.pixel_shuffle import pixel_unshuffle as pixel_unshuffle
from jdl.layers.platform import plain_implementations as plain_implementations
from jdl.layers.pool import avg_pool as avg_pool
from jdl.layers.pool import max_pool as max_pool
from jdl.layers.recurrence import ELMAN as ELMAN
from jdl.layers.recurrence import GRU as GRU
from jdl.layers.recurrence import LSTM as LSTM
from jdl.layers.recurrence import Cell as Cell
from jdl.layers.recurrence import scan_cell as scan_cell
from jdl.layers.sinusoidal import sinusoidal_embedding as sinusoidal_embedding
