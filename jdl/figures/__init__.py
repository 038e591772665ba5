"""Figures of runs: samples, confusion matrices, reliability diagrams, returns, embedding maps."""
