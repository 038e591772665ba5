"""Promoters by their grammar; FASTA files; motifs that are found, and their logos.

Seen to fail: draws that depend on the number of sequences; right spacers in place of wrong ones;
missing boxes that are there; another composition; U as unknown; a longer sequence that is not
refused; a table's label of another sequence; windows one base off; similarity without the
alignment; the entropy in nats; a last window that pooling drops.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jdl
from jdl.data.promoters import KINDS, MOTIFS, SPACERS, WRONG_SPACERS
from jdl.figures.motifs import (
    draw_motifs,
    found_motifs,
    information,
    known_motifs_found,
    similarity,
)
from jdl.inspect.predict import predict
from jdl.inspect.restore import TrainedRun
from jdl.models.sequence_cnn import SequenceCNN


@pytest.fixture(scope="module")
def sequences():
    return jdl.data.promoters(4_000, 100)


def test_the_sequences_are_the_same_everywhere(sequences):
    assert [part.fingerprint[:16] for part in sequences] == ["92c9e67ef323ebf1", "4f28a4d09114559a"]
    fewer, _ = jdl.data.promoters(20, 1)
    for name, column in fewer.columns.items():
        np.testing.assert_array_equal(column, sequences[0].columns[name][:20])
    other, _ = jdl.data.promoters(20, 1, seed=1)
    assert (other.columns["x"] != fewer.columns["x"]).any()
    with pytest.raises(jdl.Error, match="at least 1"):
        jdl.data.promoters(0)


def test_boxes_are_where_the_grammar_has_them(sequences):
    """The first box is at `place`; the second one after 15 to 19 bases, or after another number."""
    columns = sequences[0].columns
    place, kind = columns["place"], columns["kind"]
    np.testing.assert_array_equal(columns["y"], kind == 0)
    np.testing.assert_allclose(np.bincount(kind) / 4_000, [0.5] + [0.125] * 4, atol=0.02)

    def letters(start):
        return np.take_along_axis(columns["x"], start[:, None] + np.arange(6), 1) - 1

    first = np.eye(4)[letters(place)]
    log = np.log(MOTIFS["box_10"])
    fits = [log[np.arange(6), letters(place + 6 + spacer)].sum(1) for spacer in range(5, 28)]
    spacer = 5 + np.argmax(fits, 0)  # bases between the boxes, where the second one fits best
    for k, name in enumerate(KINDS):
        shares, spacers = first[kind == k].mean(0), spacer[kind == k]
        has_first = name not in ("no box", "no first box")
        assert (np.abs(shares - MOTIFS["box_35"]).max() < 0.06) == has_first, name
        right = np.isin(spacers, SPACERS).mean()
        assert (right > 0.95) == (name in ("promoter", "no first box")), name
        wrong = np.isin(spacers, WRONG_SPACERS).mean()
        assert (wrong > 0.95) == (name == "wrong spacer"), name


def test_all_kinds_have_the_same_composition(sequences):
    columns = sequences[0].columns
    shares = [
        (columns["x"][columns["kind"] == k][..., None] == np.arange(1, 5)).mean((0, 1))
        for k in range(len(KINDS))
    ]
    np.testing.assert_allclose(shares, np.broadcast_to(shares[0], (5, 4)), atol=0.005)
    assert set(np.unique(columns["x"])) == {1, 2, 3, 4}


def test_fasta_files_are_classes(tmp_path):
    (tmp_path / "yes.fa").write_text(">a first\nACGT\nnn\n\n>b\nacguRY\n")
    (tmp_path / "no.fa").write_text(">c\nTTTTTTTTT\n")
    data = jdl.data.fasta(tmp_path / "no.fa", tmp_path / "yes.fa")
    assert data.labels == ("no", "yes")
    columns = data.columns
    np.testing.assert_array_equal(columns["y"], [0, 1, 1])
    np.testing.assert_array_equal(columns["length"], [9, 6, 6])
    np.testing.assert_array_equal(columns["x"][1:, :7], [[1, 2, 3, 4, 0, 0, 0]] * 2)
    assert columns["x"].shape == (3, 16)
    (tmp_path / "of.csv").write_text("name,class,n\na,up,1\nb,down,2\n")
    one = jdl.data.fasta(tmp_path / "yes.fa", table=tmp_path / "of.csv", label="class")
    assert one.labels == ("down", "up")
    np.testing.assert_array_equal(one.columns["y"], [1, 0])
    names, columns = one.read_file(tmp_path / "yes.fa")
    assert names == ["a", "b"]
    np.testing.assert_array_equal(columns["x"], one.columns["x"])
    assert one.read_file(tmp_path / "of.csv") is None


@pytest.mark.parametrize(
    ("text", "options", "error"),
    [
        ("ACGT\n", {}, r"a\.fa:1 stands before the first header"),
        (">a\nACGT\n>\nAC\n", {}, r"a\.fa:3 is a header without a name"),
        (">a\nACGT\n>b\n>c\nA\n", {}, r"a\.fa:3: the sequence b has no bases"),
        (">a\nACGT\nAC-T\n", {}, r"a\.fa:3 has the letter '-', which is no base"),
        (">a\nMKLV\n", {}, r"a\.fa:2 has the letter 'L', which is no base .*protein"),
        (">a\nACG\N{GREEK CAPITAL LETTER TAU}\n", {}, r"a\.fa:2 has the letter 'Τ'"),
        (">a\nACGT\n>c\nACGTA\n", {"max_length": 4}, r"a\.fa:3: the sequence c has 5 bases"),
        (">a\nACGT\n>b\nA\n", {}, r"a\.fa:3: the sequence b has no row in .*of\.csv"),
        (">a\nACGT\n", {"labels": ("up",)}, r"a\.fa:1: the label of a is 'x', which is none"),
        (">a\nACGT\n", {"table": None}, r"a\.fa alone would be one class"),
    ],
)
def test_bad_files_are_refused_with_the_line(text, options, error, tmp_path):
    (tmp_path / "a.fa").write_text(text)
    (tmp_path / "of.csv").write_text("name,label\na,x\nc,x\n")
    with pytest.raises(jdl.Error, match=error):
        jdl.data.fasta(tmp_path / "a.fa", **{"table": tmp_path / "of.csv", **options})


def test_a_table_with_two_labels_of_one_sequence_is_refused(tmp_path):
    (tmp_path / "a.fa").write_text(">a\nACGT\n")
    (tmp_path / "of.csv").write_text("name,label\na,x\na,y\n")
    with pytest.raises(jdl.Error, match=r"line 3: a has the label y, and the label x"):
        jdl.data.fasta(tmp_path / "a.fa", table=tmp_path / "of.csv")


def test_information_and_similarity():
    """By hand: two sure bases, one of two, any; and the published correction of small samples."""
    pwm = np.asarray([[1, 0, 0, 0], [0.5, 0, 0, 0.5], [0.25] * 4])
    np.testing.assert_allclose(information(pwm), [2, 1, 0])
    np.testing.assert_allclose(information(pwm, 20), [2 - 0.1082, 1 - 0.1082, 0], atol=1e-4)
    motif, flat = MOTIFS["box_35"], np.full((3, 4), 0.25)
    assert similarity(motif, np.concatenate([flat, motif, flat])) == pytest.approx(1)
    assert similarity(np.concatenate([flat, motif]), motif) == pytest.approx(1)
    assert similarity(motif, motif[::-1]) < 0.5
    r = np.corrcoef(motif.ravel(), MOTIFS["box_10"].ravel())[0, 1]
    assert similarity(motif, MOTIFS["box_10"]) == pytest.approx(r)


@pytest.fixture(scope="module")
def trained(sequences):
    """A run whose first filter is the first box itself, and the second one the second box."""
    _, test = sequences
    model = SequenceCNN(1, 3, 8, ((4, 3),), ())
    objective = jdl.objectives.with_metrics(
        jdl.objectives.classify_binary(model), auroc=jdl.metrics.roc_auc
    )
    learner = jdl.descent(objective, optax.sgd(0.1))
    loader = test.batches(40)
    state = jax.jit(learner.init)(jax.random.key(0), loader[0])
    kernel = np.zeros((8, 4, 3), np.float32)
    for n, motif in enumerate(MOTIFS.values()):
        kernel[1:7, :, n] = motif
    bias = jnp.asarray([-3.5, -3.5, -1])  # the third filter is never excited
    params = {**state.params, "motif_kernel": jnp.asarray(kernel), "motif_bias": bias}
    run = jdl.Run(jdl.Config("promoters"), learner, loader, test=loader, labels=test.labels)
    return TrainedRun(run, replace(state, params=params))


def test_the_motifs_of_filters_are_found(trained):
    """A filter that is a box, one base in: its windows have the box there, as often as the data."""
    objective, variables, data = trained.objective, trained.variables, trained.run.test
    found = found_motifs(objective, variables, data)
    assert [motif.name for motif in found] in (["filter 0", "filter 1"], ["filter 1", "filter 0"])
    for motif in found:
        true = list(MOTIFS.values())[int(motif.name[-1])]
        assert motif.pwm.shape == (8, 4)
        assert np.abs(motif.pwm[1:7] - true).max() < 0.12
        assert motif.bits[1:7].min() > 1 > motif.bits[[0, 7]].max()
        assert 40 < motif.windows <= 100
    scores = known_motifs_found(objective, variables, data)
    assert scores.keys() == MOTIFS.keys()
    assert min(scores.values()) > 0.98


def test_sequences_shorter_than_a_motif_are_refused():
    with pytest.raises(jdl.Error, match="at least 12 bases"):
        SequenceCNN(2).init(jax.random.key(0), jnp.ones((1, 8), jnp.int32))


@pytest.mark.slow
def test_the_last_window_counts_whatever_the_number_of_windows():
    """An odd number of windows, pooled by two."""
    model, x = SequenceCNN(2, 4, 3, ((8, 3),), ()), jnp.ones((1, 9), jnp.int32)
    variables = model.init(jax.random.key(0), x)
    variables["params"]["motif_kernel"] = jnp.full((3, 4, 4), -3.0).at[:, 1].set(1.0)
    at_end = x.at[:, -3:].set(2)
    assert (model.apply(variables, x) != model.apply(variables, at_end)).any()


def test_motifs_are_drawn(trained, tmp_path):
    (path,) = draw_motifs(trained.run, trained.variables, tmp_path)
    assert path == tmp_path / "figures" / "motifs.png"
    assert path.stat().st_size > 10_000
    columns = trained.run.test.dataset.columns
    plain = jdl.data.arrays(x=columns["x"], y=columns["y"]).batches(50)
    assert draw_motifs(replace(trained.run, test=plain), trained.variables, tmp_path) == []
    nothing = {**trained.state.params, "motif_bias": jnp.full(3, -9.0)}  # filters of all zeros
    assert draw_motifs(trained.run, {"params": nothing}, tmp_path) == [path]
    scores = known_motifs_found(trained.objective, {"params": nothing}, trained.run.test)
    assert set(scores.values()) == {0.0}


def test_new_fasta_files_are_predicted(trained, tmp_path):
    """A row for each sequence, by its name; what is longer than the model reads is refused."""
    data = trained.run.test.dataset
    rows = ["".join("NACGT"[base] for base in row) for row in data.columns["x"][:3]]
    path = tmp_path / "new.fasta"
    path.write_text("".join(f">s{n} more\n{row}\n" for n, row in enumerate(rows)))
    found = predict(trained, [path])
    assert [row["input"] for row in found] == ["s0", "s1", "s2"]
    expected = jdl.objectives.predict_all(trained.objective, trained.variables, trained.run.test)
    for row, probability in zip(found, expected["probability"], strict=False):
        assert row["label"] == data.labels[int(probability[1] >= 0.5)]
        np.testing.assert_allclose(row["probability"], probability, atol=1e-6)
    path.write_text(f">s\n{rows[0]}A\n")
    with pytest.raises(jdl.Error, match=r"new\.fasta:1: the sequence s has 201 bases"):
        predict(trained, [path])


def test_known_motifs_are_checked(sequences):
    with pytest.raises(jdl.Error, match=r"motif m must have the probabilities"):
        sequences[0].with_motifs(m=np.ones((6, 4)))
