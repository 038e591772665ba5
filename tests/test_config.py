"""Configs: their digest, their record, and what they refuse."""

from dataclasses import dataclass, make_dataclass, replace
from pathlib import Path

import pytest

import jdl
from jdl.config import difference, digest, from_json, to_json
from jdl.study.space import parse_space, with_values
from jdl.train.command_line import parse


@dataclass(frozen=True)
class Inner:
    depth: int = 2


@dataclass(frozen=True)
class Config(jdl.Config):
    lr: float = 1e-3
    widths: tuple[int, ...] = (8, 4)
    inner: Inner = Inner()


def test_digest_is_of_all_fields_but_the_seed():
    base = Config(name="a")
    assert digest(base) == digest(replace(base, seed=5)) == digest(Config(name="a"))
    others = [
        replace(base, lr=2e-3),
        replace(base, widths=(8,)),
        replace(base, inner=Inner(3)),
        replace(base, name="b"),
    ]
    assert len({digest(c) for c in (base, *others)}) == 5
    assert len(digest(base)) == 12
    assert digest(jdl.Config(name="pinned")) == "d8441110df57"


def test_records_come_back_as_they_were():
    config = Config(name="a", lr=0.1, widths=(1, 2, 3), inner=Inner(7))
    assert from_json(Config, to_json(config)) == config
    assert (
        difference(to_json(config), to_json(replace(config, lr=0.2))) == "lr: 0.1 there, 0.2 here"
    )


@dataclass(frozen=True)
class Unrecordable(jdl.Config):
    what: object = object()


@dataclass(frozen=True)
class Infinite(jdl.Config):
    lr: float = float("nan")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jdl.Config(steps=0), "--steps must be 1 or more"),
        (lambda: jdl.Config(steps="50"), "--steps must be 1 or more, not '50'"),
        (lambda: jdl.Config(seed=-1), "--seed must be 0 or more"),
        (lambda: jdl.Config(name="../up"), "without slashes"),
        (lambda: jdl.Options(log_every=0), "--log-every must be 1 or more"),
        (
            lambda: jdl.Options(root=Path("gs://bucket/runs")),
            "a folder of a file system, and gs://",
        ),
        (lambda: to_json(Unrecordable()), "field what"),
        (lambda: to_json(Infinite()), "field lr"),
        (lambda: from_json(Config, {"gone": 1}), "no longer has: gone"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(jdl.Error, match=message):
        make()


def test_a_field_with_the_name_of_an_option_is_refused():
    """Seen to fail: tyro ends in an assertion without a cure."""
    kind = make_dataclass("Mine", [("eval_every", int, 20)], bases=(jdl.Config,), frozen=True)
    with pytest.raises(jdl.Error, match=r"Mine has a field eval_every.*another name"):
        parse(kind, [], "train", "", jdl.Options)


@dataclass(frozen=True)
class Parts(jdl.Config):
    depth: int = 1
    encoder: Inner = Inner()
    decoder: Inner = Inner(3)
    more: Inner | None = None
    all: tuple[Inner, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()


def test_fields_of_a_dataclass_within_have_its_name_before_them():
    """Seen to fail: without it two fields of one name end in tyro's assertion."""
    flags = ["--depth", "5", "--encoder.depth", "6", "--decoder.depth", "7", "--until", "8"]
    found, options = parse(Parts, flags, "train", "", jdl.Options)
    assert (found.depth, found.encoder.depth, found.decoder.depth, options.until) == (5, 6, 7, 8)


def test_records_of_dataclasses_within_come_back_as_they_were():
    """Seen to fail: those that are optional, and those in tuples, came back as dicts."""
    config = Parts(name="a", more=Inner(4), all=(Inner(5), Inner(6)), sizes=((1, 2), (3, 4)))
    assert from_json(Parts, to_json(config)) == config
    assert from_json(Parts, to_json(Parts())) == Parts()


def test_fields_of_a_dataclass_within_are_searched():
    """Seen to fail: the config had no such field."""
    space = parse_space(("encoder.depth=1,2",), ("decoder.depth=uniform(3,4)",), Parts)
    point = space.point(1, {"decoder.depth": 0.0})
    assert with_values(Parts(depth=9), point) == Parts(depth=9, encoder=Inner(2), decoder=Inner(3))
    with pytest.raises(jdl.Error, match=r"'encoder.dept': did you mean encoder.depth"):
        parse_space(("encoder.dept=1",), (), Parts)


@dataclass(frozen=True)
class Heads(jdl.Config):
    width: int = 64
    heads: int = 4

    def __post_init__(self):
        if self.width % self.heads:
            raise jdl.Error("the width must be divisible by the heads")


def test_the_values_of_a_trial_are_set_at_once():
    """Seen to fail: one after the other, a config that is half made was refused."""
    assert with_values(Heads(), {"heads": "6", "width": "96"}) == Heads(width=96, heads=6)


@dataclass(frozen=True)
class Grown:
    depth: int = 2
    width: int = 8


@dataclass(frozen=True)
class OfGrown(jdl.Config):
    inner: Grown = Grown()


def test_a_part_with_new_fields_has_their_defaults_and_one_that_lost_some_is_refused():
    """Seen to fail: both came back as dicts."""
    record = to_json(OfGrown(name="a", inner=Grown(3)))
    assert from_json(OfGrown, {**record, "inner": {"depth": 3}}).inner == Grown(3)
    with pytest.raises(jdl.Error, match="fields that Grown no longer has"):
        from_json(OfGrown, {**record, "inner": {"depth": 3, "gone": 1}})
