"""Questions about runs: evaluate, predict, sample, compare, cost, sanity checks, doctor, ..."""
