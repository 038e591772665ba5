"""jdl: deep learning as pairs of pure functions, with one loop that repeats to the bit."""

from jdl import data as data
from jdl import learners as learners
from jdl import metrics as metrics
from jdl import objectives as objectives
from jdl import optim as optim
from jdl import sampling as sampling
from jdl.keys import stream as stream
from jdl.learners import descent as descent
from jdl.learners import ema as ema
from jdl.learners import schedule_free as schedule_free
from jdl.learners import skip_nonfinite as skip_nonfinite
from jdl.objectives import freeze as freeze
from jdl.runs.config import Config as Config
from jdl.runs.config import Options as Options
from jdl.runs.experiment import main as main
from jdl.runs.fit import fit as fit
from jdl.types import Batch as Batch
from jdl.types import Decoder as Decoder
from jdl.types import Error as Error
from jdl.types import Learner as Learner
from jdl.types import Mean as Mean
from jdl.types import Objective as Objective
from jdl.types import Out as Out
from jdl.types import Run as Run
from jdl.types import State as State
