"""Questions about runs: evaluate, predict, sample, compare, cost, Frechet distance, doctor."""
