"""Environments for reinforcement learning: pure functions, compiled into the training step."""

from jdl.environments.actions import Box as Box
from jdl.environments.actions import Discrete as Discrete
from jdl.environments.actions import SquashedBox as SquashedBox
from jdl.environments.breakout import breakout as breakout
from jdl.environments.catch import catch as catch
from jdl.environments.check import check_environment as check_environment
from jdl.environments.classic import cartpole as cartpole
from jdl.environments.classic import pendulum as pendulum
from jdl.environments.environment import Environment as Environment
from jdl.environments.environment import Episodes as Episodes
from jdl.environments.environment import StepResult as StepResult
from jdl.environments.environment import Transition as Transition
from jdl.environments.environment import fold_in_rows as fold_in_rows
from jdl.environments.environment import observe_episodes as observe_episodes
from jdl.environments.environment import recurrent_rollout as recurrent_rollout
from jdl.environments.environment import reset_episodes as reset_episodes
from jdl.environments.environment import rollout as rollout
from jdl.environments.environment import step_episodes as step_episodes
from jdl.environments.gymnasium_adapter import from_gymnasium as from_gymnasium
from jdl.environments.gymnax_adapter import from_gymnax as from_gymnax
from jdl.environments.t_maze import t_maze as t_maze
