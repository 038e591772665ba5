"""`jdl doctor`: which ways of training repeat on this machine."""


def doctor() -> None:
    """Check what repeats to the bit here: versions, devices, and a few steps in every way."""
    from jdl.inspect.doctor import examine
    from jdl.train.compile_cache import quiet_libraries

    quiet_libraries()
    lines, repeats = examine()
    print("\n".join(lines))
    if not repeats:
        raise SystemExit(1)
