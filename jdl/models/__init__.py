"""Model architectures, one family a file: Flax Linen modules with `model(x, train, mask)`.

`train` switches dropout and batch normalization; `mask` (B,) says which rows are real, or (B, T)
which time steps are. Models give logits or numbers: the objective (`jdl.objectives`) has the loss.
"""
