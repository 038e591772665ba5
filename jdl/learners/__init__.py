"""Learners: training algorithms, and wrappers from one learner to another."""

from jdl.learners.clustering import k_means as k_means
from jdl.learners.clustering import k_means_init as k_means_init
from jdl.learners.compilation import jit_learner as jit_learner
from jdl.learners.compilation import trace_once as trace_once
from jdl.learners.compilation import with_data as with_data
from jdl.learners.descent import descent as descent
from jdl.learners.dqn import dqn as dqn
from jdl.learners.ema import ema as ema
from jdl.learners.mixed_precision import mixed_precision as mixed_precision
from jdl.learners.population import member as member
from jdl.learners.population import population as population
from jdl.learners.ppo import ppo as ppo
from jdl.learners.prune import lottery_ticket as lottery_ticket
from jdl.learners.prune import prune as prune
from jdl.learners.prune import prune_variables as prune_variables
from jdl.learners.replay import PrioritizedReplay as PrioritizedReplay
from jdl.learners.sac import sac as sac
from jdl.learners.schedule_free import schedule_free as schedule_free
from jdl.learners.several_steps import SeveralSteps as SeveralSteps
from jdl.learners.several_steps import several_steps as several_steps
from jdl.learners.skip_nonfinite import checked_metrics as checked_metrics
from jdl.learners.skip_nonfinite import skip_nonfinite as skip_nonfinite
from jdl.learners.swa import swa as swa
from jdl.learners.target_network import target_network as target_network
from jdl.learners.wrapper import Wrapper as Wrapper
