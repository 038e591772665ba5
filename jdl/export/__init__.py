"""A trained run handed over: a folder that predicts without jdl, by StableHLO."""

from jdl.export.bundle import export as export
from jdl.export.bundle import verify as verify
