"""Figures of runs: sample grids, confusion matrices, return curves, embedding maps."""
