"""A trained run handed over: a folder that predicts without jdl, by StableHLO."""

from jdl.export.folder import export as export
from jdl.export.folder import verify as verify
