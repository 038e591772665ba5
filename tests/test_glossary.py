"""The glossary is true: each term stands in the docstring of what it links to."""

import re
from functools import cache
from pathlib import Path

import griffe
import pytest

ROOT = Path(__file__).parents[1]
ENTRY = re.compile(
    r"\*\*(?P<term>.+?)\*\*( \((?P<gloss>.+?)\))?: .+\. "
    r"\[`(?P<shown>[\w.]+)`\]\[(?P<target>[\w.]*)\]"
)
LINES = [line for line in (ROOT / "docs" / "glossary.md").read_text().splitlines() if "**" in line]
REQUIRED = """
    gradient accumulation, gradient clipping, data parallel, fully sharded data parallel, tensor
    parallel, mixed precision, loss scaling, exponential moving average, weight decay, early
    stopping, learning rate schedule, warmup, dropout, batch normalization, data augmentation,
    embedding, attention, KV cache, beam search, top-k sampling, nucleus sampling, masked
    language model, teacher forcing, CTC, encoder, decoder, latent, reparameterization, ELBO,
    discriminator, critic, gradient penalty, noise schedule, classifier-free guidance, DDIM,
    flow matching, message passing, link prediction, replay buffer, target network,
    epsilon-greedy, GAE, TD error, advantage, policy, value function, rollout, contrastive loss,
    InfoNCE, fine-tuning, freezing, checkpoint, seed, epoch, batch, confusion matrix, F1, IoU,
    BLEU, ROUGE, perplexity, Frechet distance
"""


def entries():
    """(term, the name written out or a synonym, the name in jdl shown, the name linked to)."""
    matches = [ENTRY.fullmatch(line) for line in LINES]
    assert all(matches), [line for line, match in zip(LINES, matches, strict=True) if not match]
    return [(m["term"], m["gloss"], m["shown"], m["target"] or m["shown"]) for m in matches]


@cache
def package():
    return griffe.load("jdl", search_paths=[ROOT], allow_inspection=False)


def plain(text):
    """A text in small letters, with one space for each hyphen or line break."""
    return " ".join(text.lower().replace("-", " ").split())


def test_it_has_the_terms_of_the_field_in_alphabetical_order():
    terms = [entry[0] for entry in entries()]
    missing = {" ".join(term.split()) for term in REQUIRED.split(",")} - set(terms)
    assert not missing
    assert len(terms) == len(set(terms)) >= 60
    assert terms == sorted(terms, key=str.lower)


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry[0])
def test_the_docstring_has_the_term(entry):
    term, gloss, shown, target = entry
    member = package()[target.removeprefix("jdl.")]
    assert not member.is_alias, f"{target} is defined in {member.target_path}: link to that"
    assert member.docstring, f"{target} has no docstring"
    text = member.docstring.value
    forms = plain(text), plain(re.sub(r"\s*\(.*?\)", "", text, flags=re.S))
    assert any(plain(name) in form for name in (term, gloss) if name for form in forms), text
    assert shown.split(".")[-1] == target.split(".")[-1]
