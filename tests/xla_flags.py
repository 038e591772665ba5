"""Flags of XLA with which the tests compile, set before jax is imported."""

from importlib.metadata import version

OLD_EMITTERS = version("jaxlib").startswith("0.10.")  # it still has them
# Compiler options for a single program that is to be compiled as users' programs are.
WITH_NEW_EMITTERS = {"xla_cpu_use_fusion_emitters": True} if OLD_EMITTERS else {}
# And in as many pieces for LLVM as by default, on which the last bits of some programs depend.
IN_PIECES = {"xla_cpu_parallel_codegen_split_count": 32}


def quick_to_compile() -> str:
    """Flags for programs that compile in a third of the time, and run slower.

    LLVM leaves programs as they are, and gets each in one piece: with 32 of them, XLA's default for
    many threads, compiling takes 1.4 times as long. jaxlib 0.10 emits fusions as it did before
    MLIR; a later one ends when it meets that flag.
    """
    flags = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
    if OLD_EMITTERS:
        flags.append("--xla_cpu_use_fusion_emitters=false")
    return " ".join(flags)
