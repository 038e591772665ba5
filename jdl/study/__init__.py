"""Hyperparameter optimization: studies of many runs of one experiment."""

from jdl.study.importance import importance as importance
from jdl.study.search import Search as Search
from jdl.study.tune import tune as tune
