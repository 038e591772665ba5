"""Environments for reinforcement learning, pure and so compiled into the training step."""

from jdl.environments.actions import Box as Box
from jdl.environments.actions import Discrete as Discrete
from jdl.environments.adapters import from_gymnasium as from_gymnasium
from jdl.environments.adapters import from_gymnax as from_gymnax
from jdl.environments.classic import cartpole as cartpole
from jdl.environments.classic import pendulum as pendulum
from jdl.environments.environment import Environment as Environment
from jdl.environments.environment import Episodes as Episodes
from jdl.environments.environment import begin as begin
from jdl.environments.environment import folded as folded
from jdl.environments.environment import move as move
from jdl.environments.environment import rollout as rollout
from jdl.environments.environment import seen as seen
