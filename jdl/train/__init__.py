"""Training: experiments, placement on devices, the loop and its hooks."""
