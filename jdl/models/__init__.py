"""Model architectures, one family a file: Flax Linen modules with `model(x, train, mask)`.

`train` switches dropout and batch normalization; `mask` marks the real rows (B,) or the real time
steps (B, T). Models give logits or values; the loss is in the objective (`jdl.objectives`).
`jdl.nnx` makes a model of a Flax NNX module.
"""
