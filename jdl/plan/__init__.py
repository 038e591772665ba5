"""Plans: what a training would take on accelerators that are not here; memory, time, energy."""

from jdl.plan.run_plan import Plan as Plan
from jdl.plan.run_plan import plan as plan
from jdl.plan.trials import search as search
from jdl.plan.trials import smallest_change as smallest_change
