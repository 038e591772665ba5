"""Set-up of JAX, which every verb that computes calls first."""

from jdl.train.compile_cache import quiet_libraries, use_compilation_cache
from jdl.train.thread_pool import fix_thread_pool_size


def set_up_jax(compilation_cache: bool = True) -> None:
    """Sets up JAX before its first use: quiet logs, the CPU thread pool, the compilation cache."""
    quiet_libraries()
    fix_thread_pool_size()
    if compilation_cache:
        use_compilation_cache()
