"""What every verb that computes does first."""

from jdl.train.compile_cache import quiet_libraries, use_compilation_cache


def set_up_jax() -> None:
    """Quiet library logs and the cache of compiled programs, before JAX's first use."""
    quiet_libraries()
    use_compilation_cache()
