"""`jdl doctor`: which ways of training repeat on this machine."""


def doctor() -> None:
    """Check what repeats to the bit on this machine, by a few steps in every way of training."""
    from jdl.cli.startup import set_up_jax
    from jdl.inspect.doctor import examine

    set_up_jax(compilation_cache=False)
    lines, repeats = examine()
    print("\n".join(lines))
    if not repeats:
        raise SystemExit(1)
