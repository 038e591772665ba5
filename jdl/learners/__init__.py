"""Learners: functions to the pair (init, step), or from one such pair to another."""

from jdl.learners.clustered import clustered as clustered
from jdl.learners.compiled import compiled as compiled
from jdl.learners.compiled import fed as fed
from jdl.learners.descent import descent as descent
from jdl.learners.dqn import dqn as dqn
from jdl.learners.ema import ema as ema
from jdl.learners.population import member as member
from jdl.learners.population import population as population
from jdl.learners.ppo import ppo as ppo
from jdl.learners.precision import in_precision as in_precision
from jdl.learners.schedule_free import schedule_free as schedule_free
from jdl.learners.skipping import skip_nonfinite as skip_nonfinite
from jdl.learners.skipping import watched as watched
