"""jdl: deep learning on JAX, as pure functions, with one training loop that repeats to the bit.

`import jdl` alone is light: each public name is imported when it is first used (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; the same names as below
    from jdl import bundle as bundle
    from jdl import data as data
    from jdl import environments as environments
    from jdl import explain as explain
    from jdl import export as export
    from jdl import inspect as inspect
    from jdl import layers as layers
    from jdl import learners as learners
    from jdl import metrics as metrics
    from jdl import models as models
    from jdl import objectives as objectives
    from jdl import optim as optim
    from jdl import parallel as parallel
    from jdl import plan as plan
    from jdl import report as report
    from jdl import sampling as sampling
    from jdl import serve as serve
    from jdl import study as study
    from jdl import train as train
    from jdl import types as types
    from jdl import weights as weights
    from jdl.config import Config as Config
    from jdl.config import Options as Options
    from jdl.errors import Error as Error
    from jdl.errors import Stop as Stop
    from jdl.inspect.restore import restore as restore
    from jdl.keys import stream as stream
    from jdl.learners.clustering import k_means_init as k_means_init
    from jdl.learners.descent import descent as descent
    from jdl.learners.dqn import dqn as dqn
    from jdl.learners.ema import ema as ema
    from jdl.learners.population import population as population
    from jdl.learners.ppo import ppo as ppo
    from jdl.learners.prune import prune as prune
    from jdl.learners.sac import sac as sac
    from jdl.learners.schedule_free import schedule_free as schedule_free
    from jdl.learners.skip_nonfinite import skip_nonfinite as skip_nonfinite
    from jdl.learners.swa import swa as swa
    from jdl.learners.target_network import target_network as target_network
    from jdl.models.nnx import nnx as nnx
    from jdl.models.pair import Model as Model
    from jdl.objectives.adapted_model import adapt_model as adapt_model
    from jdl.objectives.anneal import anneal as anneal
    from jdl.objectives.distil import distil as distil
    from jdl.objectives.fake_quantize import fake_quantize as fake_quantize
    from jdl.objectives.freeze import freeze as freeze
    from jdl.objectives.freeze import merge_frozen as merge_frozen
    from jdl.objectives.ia3 import ia3 as ia3
    from jdl.objectives.ia3 import merge_ia3 as merge_ia3
    from jdl.objectives.lora import lora as lora
    from jdl.objectives.lora import merge_lora as merge_lora
    from jdl.objectives.mutual import mutual as mutual
    from jdl.objectives.pretrained_model import pretrained as pretrained
    from jdl.objectives.quantize import quantize as quantize
    from jdl.run import Hook as Hook
    from jdl.run import Run as Run
    from jdl.train.epochs import epochs_to_steps as epochs_to_steps
    from jdl.train.experiment import main as main
    from jdl.train.fit import fit as fit
    from jdl.types import Batch as Batch
    from jdl.types import DecodesTokens as DecodesTokens
    from jdl.types import Encodes as Encodes
    from jdl.types import Generates as Generates
    from jdl.types import Learner as Learner
    from jdl.types import Loader as Loader
    from jdl.types import LossOutput as LossOutput
    from jdl.types import Mean as Mean
    from jdl.types import Objective as Objective
    from jdl.types import Predicts as Predicts
    from jdl.types import SamplesLatents as SamplesLatents
    from jdl.types import State as State
else:

    def __getattr__(name: str) -> Any:
        if name in MODULES:
            value = import_module(f"jdl.{name}")
        elif name in NAMES:
            value = getattr(import_module(NAMES[name]), name)
        else:
            raise AttributeError(f"module 'jdl' has no attribute {name!r}")
        globals()[name] = value
        return value


MODULES = (
    "bundle",
    "data",
    "environments",
    "explain",
    "export",
    "inspect",
    "layers",
    "learners",
    "metrics",
    "models",
    "objectives",
    "optim",
    "parallel",
    "plan",
    "report",
    "sampling",
    "serve",
    "study",
    "train",
    "types",
    "weights",
)
NAMES = {  # by name, the module that defines it
    "Config": "jdl.config",
    "Options": "jdl.config",
    "Error": "jdl.errors",
    "Stop": "jdl.errors",
    "restore": "jdl.inspect.restore",
    "stream": "jdl.keys",
    "descent": "jdl.learners.descent",
    "dqn": "jdl.learners.dqn",
    "ema": "jdl.learners.ema",
    "k_means_init": "jdl.learners.clustering",
    "population": "jdl.learners.population",
    "ppo": "jdl.learners.ppo",
    "prune": "jdl.learners.prune",
    "sac": "jdl.learners.sac",
    "schedule_free": "jdl.learners.schedule_free",
    "skip_nonfinite": "jdl.learners.skip_nonfinite",
    "swa": "jdl.learners.swa",
    "target_network": "jdl.learners.target_network",
    "nnx": "jdl.models.nnx",
    "Model": "jdl.models.pair",
    "adapt_model": "jdl.objectives.adapted_model",
    "anneal": "jdl.objectives.anneal",
    "distil": "jdl.objectives.distil",
    "fake_quantize": "jdl.objectives.fake_quantize",
    "freeze": "jdl.objectives.freeze",
    "ia3": "jdl.objectives.ia3",
    "merge_ia3": "jdl.objectives.ia3",
    "lora": "jdl.objectives.lora",
    "merge_frozen": "jdl.objectives.freeze",
    "merge_lora": "jdl.objectives.lora",
    "mutual": "jdl.objectives.mutual",
    "pretrained": "jdl.objectives.pretrained_model",
    "quantize": "jdl.objectives.quantize",
    "Hook": "jdl.run",
    "Run": "jdl.run",
    "epochs_to_steps": "jdl.train.epochs",
    "main": "jdl.train.experiment",
    "fit": "jdl.train.fit",
    "Batch": "jdl.types",
    "DecodesTokens": "jdl.types",
    "Encodes": "jdl.types",
    "Generates": "jdl.types",
    "Learner": "jdl.types",
    "Loader": "jdl.types",
    "LossOutput": "jdl.types",
    "Mean": "jdl.types",
    "Objective": "jdl.types",
    "Predicts": "jdl.types",
    "SamplesLatents": "jdl.types",
    "State": "jdl.types",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *MODULES, *NAMES})
