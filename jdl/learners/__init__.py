"""Learners: functions to the pair (init, step), or from one such pair to another."""

from jdl.learners.compiled import compiled as compiled
from jdl.learners.compiled import fed as fed
from jdl.learners.descent import descent as descent
from jdl.learners.ema import ema as ema
