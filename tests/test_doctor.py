"""`jdl doctor`: its report on machines that repeat, and on those that do not.

Seen to fail: digests compared within one process, a verdict that is always good, elastic runs that
are always equal.
"""

import os
import subprocess

import pytest
from xla_flags import quick_to_compile

import jdl
from jdl import cli
from jdl.inspect import doctor


def results(**digests):
    """The results of one process, of one model."""
    return {
        "cnn": {
            way: {"digest": digest, "distance": 0.25 * (digest != "a"), "ms": 1.5}
            for way, digest in digests.items()
        }
    }


@pytest.fixture
def report(monkeypatch, capsys):
    """The exit code and the output of the verb, for the results of two processes."""

    def report(*processes):
        turns = iter(processes)
        monkeypatch.setattr(doctor, "_run_process", lambda *ways, **variables: next(turns))
        code = 0
        try:
            cli.call_verb("doctor", [])
        except SystemExit as end:
            code = end.code
        return code, capsys.readouterr().out

    return report


def line(out, way):
    return next(
        line for line in out.splitlines() if line.startswith("cnn") and line.split()[1] == way
    )


def test_a_machine_that_repeats(report):
    both = results(jit="a", **{"data=4": "b", "pmap=4": "a", "elastic=1": "c", "elastic=4": "c"})
    code, out = report(both, both)
    assert code == 0
    assert out.endswith("Runs on one device repeat to the bit on this machine.\n")
    assert "OTHER BITS" not in out
    assert line(out, "data=4").split() == ["cnn", "data=4", "the", "same", "bits", "2e-01", "1.50"]
    assert line(out, "pmap=4").count("the same bits") == 2
    assert "jax 0." in out
    assert "of kind cpu" in out


def test_a_machine_that_does_not(report):
    code, out = report(results(jit="a", **{"pmap=4": "b"}), results(jit="z", **{"pmap=4": "b"}))
    assert code == 1
    assert "OTHER BITS" in line(out, "jit")
    assert "OTHER BITS" not in line(out, "pmap=4")
    assert out.endswith("Runs on one device DO NOT repeat on this machine.\n")


def test_elastic_that_is_not(report):
    both = results(jit="a", **{"elastic=1": "c", "elastic=4": "d"})
    code, out = report(both, both)
    assert code == 0  # the verdict is on one device
    assert "cnn         elastic, on any of these numbers of devices: OTHER BITS" in out


def test_a_process_that_fails_is_reported(monkeypatch):
    monkeypatch.setattr(doctor.sys, "executable", "/bin/false")
    with pytest.raises(jdl.Error, match="fails on this machine"):
        doctor.examine()


@pytest.mark.nightly
def test_this_machine():
    """Two devices, in every way that they have."""
    flags = f"--xla_force_host_platform_device_count=2 {quick_to_compile()}"
    environment = os.environ | {"XLA_FLAGS": flags}
    del environment["PJRT_NPROC"]  # jdl sets it itself
    done = subprocess.run(["jdl", "doctor"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PJRT_NPROC=8" in done.stdout
    assert "warning" not in done.stdout
    for way in ("jit", "data=2", "pmap=2", "elastic=1", "elastic=2", "seeds=3"):
        for family in ("cnn", "transformer"):
            assert f"{family:<12}{way:<14}the same bits" in done.stdout
    assert done.stdout.count("elastic, on any of these numbers of devices: the same bits") == 2
