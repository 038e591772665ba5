"""`jdl sample`: text or images from a generative model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from jdl.cli.arguments import Best, Draws, Root, RunName, Temperature, TopK, TopP

if TYPE_CHECKING:
    from jdl.inspect.restore import TrainedRun

Label = Annotated[
    int | None,
    tyro.conf.arg(help="Class-conditional models: the class of all samples; without, all in turn."),
]
GuidanceScale = Annotated[
    float | None,
    tyro.conf.arg(
        help="Class-conditional diffusion: the scale of classifier-free guidance; 1 is none."
    ),
]


def sample(
    run: RunName,
    n: Annotated[
        int | None,
        tyro.conf.arg(aliases=["-n"], help="How many texts (default 1) or images (default 64)."),
    ] = None,
    out: Annotated[
        Path | None,
        tyro.conf.arg(
            help="Images only: write to FILE.png (a grid) or FILE.npz (x, and labels y)."
        ),
    ] = None,
    reconstruct: Annotated[
        bool,
        tyro.conf.arg(
            help="Images only: images of the test data, each followed by its reconstruction."
        ),
    ] = False,
    label: Label = None,
    guidance_scale: GuidanceScale = None,
    prompt: Annotated[str, tyro.conf.arg(help="The beginning of the text.")] = "",
    tokens: Annotated[int, tyro.conf.arg(help="How many tokens to generate.")] = 200,
    temperature: Temperature = 0.8,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    beams: Annotated[
        int, tyro.conf.arg(help="Beam search with this many beams instead of sampling; 0: none.")
    ] = 0,
    seed: Draws = 0,
    root: Root = Path("runs"),
    best: Best = False,
) -> None:
    """Generate text with a language model, or images with a generative model."""
    from jdl import sampling
    from jdl.cli.startup import set_up_jax
    from jdl.inspect import sample as samples
    from jdl.inspect.restore import restore
    from jdl.store.catalog import find
    from jdl.types import Error, Generates

    set_up_jax()
    sampler = sampling.sample_token(temperature, top_k, top_p) if temperature else sampling.greedy
    trained = restore(find(run, root), best=best)
    if isinstance(trained.objective, Generates):
        count, path = 64 if n is None else n, out or Path("samples.png")
        return _write_images(trained, count, path, reconstruct, seed, label, guidance_scale)
    if (label, guidance_scale) != (None, None):
        raise Error("--label and --guidance-scale are those of diffusion models: leave them out.")
    if beams:
        texts = samples.beam_search(trained, prompt, tokens, beams)
    else:
        texts = samples.generate_text(trained, prompt, tokens, sampler, 1 if n is None else n, seed)
    print("\n---\n".join(prompt + text for text in texts))


def _write_images(
    trained: "TrainedRun",
    count: int,
    path: Path,
    reconstruct: bool,
    seed: int,
    label: int | None,
    guidance_scale: float | None,
) -> None:
    """Writes images, and says which labels they have."""
    from jdl.figures.samples import sample_labels
    from jdl.inspect.sample import write_images

    print(write_images(trained, count, path, reconstruct, seed, label, guidance_scale))
    labels = None if reconstruct else sample_labels(trained.run, count, label)
    if labels is not None and label is None:
        print(f"The labels are 0 to {labels.max()} in turn, by row: --label K is one class.")
