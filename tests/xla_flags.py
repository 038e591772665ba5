"""The flags of XLA that the tests set before jax is imported."""

from importlib.metadata import version


def quick_to_compile() -> str:
    """Four simulated devices, whose programs compile in a third of the time and run slower.

    LLVM leaves programs as they are, and jaxlib 0.10 emits fusions as it did before MLIR; a later
    one ends when it meets that flag.
    """
    flags = ["--xla_force_host_platform_device_count=4", "--xla_backend_optimization_level=0"]
    if version("jaxlib").startswith("0.10."):
        flags.append("--xla_cpu_use_fusion_emitters=false")
    return " ".join(flags)
