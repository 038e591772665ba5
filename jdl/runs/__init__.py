"""Runs: config, fit, checkpoints, logs. Clock and disk live here."""
