"""The command line."""

from jdl.cli.main import main as main
