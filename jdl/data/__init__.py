"""Data as a function of the step: sources, order, batches, augmentation."""

from jdl.data.augment import normalise as normalise
from jdl.data.augment import random_crop as random_crop
from jdl.data.augment import random_erase as random_erase
from jdl.data.augment import random_flip as random_flip
from jdl.data.batches import Batches as Batches
from jdl.data.examples import Examples as Examples
from jdl.data.examples import arrays as arrays
from jdl.data.examples import digits as digits
from jdl.data.records import tfds as tfds
