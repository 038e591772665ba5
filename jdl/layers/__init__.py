"""Layers that Flax lacks, or that a platform needs in another form."""

from jdl.layers.conv import convolution as convolution
from jdl.layers.norm import BatchNorm as BatchNorm
from jdl.layers.pool import max_pool as max_pool
