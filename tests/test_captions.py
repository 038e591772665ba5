"""Scenes of colored garments and their sentences: functions of (seed, i); sentences that are true.

Seen to fail: with draws that depend on the number of scenes, with arrangements of both sides of the
split, with "right of" for "left of", with the next color, with both ways of telling; a figure of
the rows of another batch.
"""

from dataclasses import replace

import jax
import numpy as np
import pytest

import jdl
from jdl.data import captions
from jdl.figures import captions as figure
from jdl.models.captioner import Captioner
from jdl.models.resnet import ResNet
from jdl.models.transformer import TransformerConfig

TOKENIZER = jdl.data.ByteTokenizer()


@pytest.fixture
def sides(monkeypatch):
    """Garments whose brightness tells their class and their side of the split."""

    def part(side):
        y = np.arange(20) % 10
        x = np.zeros((20, 28, 28, 1), np.uint8)
        x[:, 4:24, 4:24] = (100 + 10 * y + 5 * side)[:, None, None, None]
        return jdl.data.arrays([f"kind {n}" for n in range(10)], x=x, y=y)

    monkeypatch.setattr(captions, "tfds", lambda name: (part(0), part(1)))


def sentences(part):
    rows = zip(part.columns["y"], part.columns["y_length"], strict=True)
    return [TOKENIZER.decode(tokens[: length - 1]) for tokens, length in rows]


def test_the_scenes_are_the_same_everywhere(sides):
    parts = jdl.data.garment_captions(TOKENIZER, 40, 10)  # more than one CHUNK
    assert [part.fingerprint[:16] for part in parts] == ["49172808fa8d52be", "c3bd2e03e8276105"]
    fewer, _ = jdl.data.garment_captions(TOKENIZER, 5, 1)
    for name, column in fewer.columns.items():
        np.testing.assert_array_equal(column, parts[0].columns[name][:5])
    other, _ = jdl.data.garment_captions(TOKENIZER, 5, 1, seed=1)
    assert (other.columns["x"] != fewer.columns["x"]).any()
    with pytest.raises(jdl.Error, match="garment_captions takes numbers of images, at least 1"):
        jdl.data.garment_captions(TOKENIZER, 0)


def test_no_arrangement_of_the_test_is_in_training_or_twice(sides, monkeypatch):
    blank = np.zeros((captions.CHUNK, 48, 48, 3), np.uint8)
    monkeypatch.setattr(captions, "_draw", lambda part, shown, draws: blank[: len(shown)])
    train, test = jdl.data.garment_captions(TOKENIZER, 2_560, 640)
    place = {sentence: n // 2 for n, sentence in enumerate(jdl.data.garment_sentences())}
    assert len(place) == 6_400
    shown = [{place[sentence] for sentence in sentences(part)} for part in (train, test)]
    assert [len(part) for part in shown] == [2_560, 640]
    assert shown[0].isdisjoint(shown[1])
    assert {" right of ", " left of ", " above ", " below "} == {
        relation
        for relation in (" right of ", " left of ", " above ", " below ")
        if any(relation in sentence for sentence in sentences(test))
    }


def test_sentences_are_true_of_their_scenes(sides, monkeypatch):
    """Each thing has its color and its class's brightness, and stands where the sentence says."""
    monkeypatch.setattr(captions, "SCENE", {"canvas": (0.0, 0.0), "noise": (0.0, 0.0)})
    monkeypatch.setattr(captions, "GARMENT", {**captions.GARMENT, "light": (1.0, 1.0)})
    for side, part in enumerate(jdl.data.garment_captions(TOKENIZER, 60, 60)):
        for x, sentence in zip(part.columns["x"], sentences(part), strict=True):
            _, color, noun, *relation, _, other_color, other_noun = sentence.split()
            half = {"left": x[:, :24], "right": x[:, 24:], "above": x[:24], "below": x[24:]}
            back = {"left": "right", "right": "left", "above": "below", "below": "above"}
            things = ((relation[0], color, noun), (back[relation[0]], other_color, other_noun))
            for where, name, thing in things:
                seen = half[where].reshape(-1, 3)
                inner = seen[seen.max(1) == np.median(seen.max(1)[seen.max(1) > 60])][0]
                full = 100 + 10 * captions.NOUNS.index(thing) + 5 * side
                expected = full * np.asarray(captions.COLORS[name])
                np.testing.assert_allclose(inner, expected, atol=2)


@pytest.mark.slow
def test_a_figure_has_what_is_written_beside_what_is_right(sides, monkeypatch, tmp_path):
    """Of a model that is not trained; the drawing itself is looked at by people."""
    train, test = jdl.data.garment_captions(TOKENIZER, 2, 14, both_ways=False)
    first_told = captions.garment_sentences()[::2]
    assert set(sentences(test)) <= set(first_told)
    model = Captioner(
        TOKENIZER.vocab_size, ResNet(None, ((4, 1),)), TransformerConfig(8, 1, 2, max_length=48)
    )
    objective = jdl.objectives.seq2seq(model, TOKENIZER.eos_id, max_new_tokens=3)
    learner, drawn = jdl.descent(objective, jdl.optim.adamw(1e-3)), []
    run = jdl.Run(jdl.Config("c", steps=1), learner, train.batches(2), test=test.batches(8))
    variables = jax.jit(objective.init)(jax.random.key(0), run.test[0])
    monkeypatch.setattr(figure, "_draw", lambda *given: drawn.append(given))
    assert figure.draw_captions(run, variables, tmp_path) == []  # no tokenizer
    run = replace(run, tokenizer=TOKENIZER)
    assert figure.draw_captions(run, variables, tmp_path) == [tmp_path / "figures" / "captions.png"]
    ((images, written, right, _),) = drawn
    assert len(images) == len(written) == 12
    assert right == sentences(test)[:12]
    assert not set(written) & set(right)
