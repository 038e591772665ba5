"""Layers that Flax lacks, or that a platform needs in another form."""

from jdl.layers.attention import attention as attention
from jdl.layers.attention import rotary as rotary
from jdl.layers.conv import convolution as convolution
from jdl.layers.conv_norm import Conv as Conv
from jdl.layers.conv_norm import ConvNorm as ConvNorm
from jdl.layers.dense import Dense as Dense
from jdl.layers.dropout import Dropout as Dropout
from jdl.layers.norm import BatchNorm as BatchNorm
from jdl.layers.norm import LayerNorm as LayerNorm
from jdl.layers.pool import max_pool as max_pool
from jdl.layers.pool import mean_pool as mean_pool
from jdl.layers.recurrence import GRU as GRU
from jdl.layers.recurrence import LSTM as LSTM
from jdl.layers.recurrence import SIMPLE as SIMPLE
from jdl.layers.recurrence import Cell as Cell
from jdl.layers.recurrence import recur as recur
from jdl.layers.rows import ROWS as ROWS
from jdl.layers.rows import all_rows as all_rows
from jdl.layers.rows import drawn as drawn
from jdl.layers.rows import mapped as mapped
from jdl.layers.rows import over_rows as over_rows
from jdl.layers.shuffle import pixel_shuffle as pixel_shuffle
from jdl.layers.shuffle import pixel_unshuffle as pixel_unshuffle
from jdl.layers.times import waves as waves
