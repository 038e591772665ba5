"""`jdl doctor`: what it tells of machines that repeat and of those that do not.

Seen to fail with digests compared within one process, a verdict that is always good, and elastic always alike.
"""

import os
import subprocess

import pytest

from jdl.cli.main import main
from jdl.inspect import doctor


def found(**digests):
    """What one process finds of one family."""
    return {
        "cnn": {
            way: {"digest": digest, "distance": 0.25 * (digest != "a"), "ms": 1.5}
            for way, digest in digests.items()
        }
    }


@pytest.fixture
def told(monkeypatch, capsys):
    """What the verb prints, and its code, where two processes find this."""

    def told(*processes):
        turns = iter(processes)
        monkeypatch.setattr(doctor, "_probed", lambda *ways, **variables: next(turns))
        try:
            code = main.doctor()
        except SystemExit as end:
            code = end.code
        return code or 0, capsys.readouterr().out

    return told


def line(out, way):
    return next(
        line for line in out.splitlines() if line.startswith("cnn") and line.split()[1] == way
    )


def test_a_machine_that_repeats(told):
    both = found(jit="a", **{"data=4": "b", "pmap=4": "a", "elastic=1": "c", "elastic=4": "c"})
    code, out = told(both, both)
    assert code == 0
    assert out.endswith("Runs of one device repeat to the bit here.\n")
    assert "OTHER BITS" not in out
    assert line(out, "data=4").split() == ["cnn", "data=4", "the", "same", "bits", "2e-01", "1.50"]
    assert line(out, "pmap=4").count("the same bits") == 2
    assert "jax 0." in out
    assert "of kind cpu" in out


def test_a_machine_that_does_not(told):
    code, out = told(found(jit="a", **{"pmap=4": "b"}), found(jit="z", **{"pmap=4": "b"}))
    assert code == 1
    assert "OTHER BITS" in line(out, "jit")
    assert "OTHER BITS" not in line(out, "pmap=4")
    assert out.endswith("Runs of one device DO NOT repeat here.\n")


def test_elastic_that_is_not(told):
    both = found(jit="a", **{"elastic=1": "c", "elastic=4": "d"})
    code, out = told(both, both)
    assert code == 0  # a verdict on runs of one device
    assert "cnn         elastic, on any of these numbers of devices: OTHER BITS" in out


def test_a_process_that_fails_is_told(monkeypatch, capsys):
    monkeypatch.setattr(doctor.sys, "executable", "/bin/false")
    with pytest.raises(doctor.Error, match="fails on this machine"):
        doctor.examined()


@pytest.mark.slow
def test_this_machine():
    """Two devices, in every way that they have."""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run(["jdl", "doctor"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for way in ("jit", "data=2", "pmap=2", "elastic=1", "elastic=2", "seeds=3"):
        for family in ("cnn", "transformer"):
            assert f"{family:<12}{way:<14}the same bits" in done.stdout
    assert done.stdout.count("elastic, on any of these numbers of devices: the same bits") == 2
