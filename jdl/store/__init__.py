"""A run's folder on disk: record, code, lock, log, step trace, checkpoints."""
