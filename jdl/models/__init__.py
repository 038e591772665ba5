"""Models: one family a file, Flax Linen modules that are called as `model(x, train=False, mask=None)`."""
