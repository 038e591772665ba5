"""Flags of XLA with which the tests compile, set before jax is imported."""

from importlib.metadata import version

OLD_EMITTERS = version("jaxlib").startswith("0.10.")  # it still has them
# Compiler options for a single program that is to be compiled as users' programs are.
WITH_NEW_EMITTERS = {"xla_cpu_use_fusion_emitters": True} if OLD_EMITTERS else {}


def quick_to_compile() -> str:
    """Flags for programs that compile in a third of the time, and run slower.

    LLVM leaves programs as they are, and jaxlib 0.10 emits fusions as it did before MLIR; a later
    one ends when it meets that flag.
    """
    flags = ["--xla_backend_optimization_level=0"]
    if OLD_EMITTERS:
        flags.append("--xla_cpu_use_fusion_emitters=false")
    return " ".join(flags)
