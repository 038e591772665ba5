"""Plans: what a training would take on accelerators that are not here; memory, time, energy."""
