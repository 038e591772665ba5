"""What of an environment a run's bits depend on, and that the number of cores is none of it.

Seen to fail: the digests on one core and on two, and with one simulated device and four, without
`fix_thread_pool_size`; the comparison of environments, without the size of the pool.
"""

import os
import subprocess
import sys

import jax
import pytest
from harness import SCRIPT, command, digest, finish, folder_of

from jdl.store.environment import (
    DETERMINISTIC_FLAG,
    fingerprint,
    numerics_environment,
    thread_pool_size,
)
from jdl.train import deterministic, thread_pool
from jdl.train.deterministic import deterministic_notes

RECORD = {"config": {}, "options": {}, "environment": fingerprint()}


def on_cores(cores, root, *flags, **environment):
    """The digest of a short training that may use these cores alone, with nothing set."""
    unset = {name: v for name, v in os.environ.items() if name not in ("PJRT_NPROC", "NPROC")}
    words = command(root, "--quiet", *flags, script=SCRIPT.with_name("wide_mlp.py"))
    process = subprocess.Popen(
        ["taskset", "-c", cores, *words],
        env={**unset, "XLA_FLAGS": "", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    finish(process)
    return digest(folder_of(root))


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_the_number_of_cores_changes_no_bit(tmp_path):
    one, two = sorted(os.sched_getaffinity(0))[:2]
    digests = {on_cores(cores, tmp_path / cores) for cores in (f"{one}", f"{one},{two}")}
    assert len(digests) == 1


@pytest.mark.slow
def test_the_number_of_simulated_devices_changes_no_bit(tmp_path):
    digests = {
        on_cores("0", tmp_path / count, "--elastic", 4, JAX_NUM_CPU_DEVICES=count)
        for count in ("1", "4")
    }
    assert len(digests) == 1


POOL = """
import jax, os, sys
from jdl.train.thread_pool import fix_thread_pool_size, thread_pool_notes
from jdl.store.environment import fingerprint, thread_pool_size
if "early" in sys.argv:
    jax.devices()
fix_thread_pool_size()
print(os.environ.get("PJRT_NPROC"), thread_pool_size(fingerprint()))
print(len([*thread_pool_notes()]), len([*thread_pool_notes()]))
"""


@pytest.mark.parametrize(
    ("given", "early", "expected"),
    [
        ({}, False, f"{thread_pool.POOL_SIZE} {thread_pool.POOL_SIZE}\n0 0"),
        ({}, True, f"None {len(os.sched_getaffinity(0))}\n1 0"),
        ({"PJRT_NPROC": "3"}, False, "3 3\n0 0"),
        ({"NPROC": "5"}, False, "None 5\n0 0"),
        ({"JAX_NUM_CPU_DEVICES": "12"}, False, f"{thread_pool.POOL_SIZE} 12\n0 0"),
    ],
    ids=["fixed", "too late", "PJRT_NPROC", "NPROC", "devices"],
)
def test_the_pool_is_fixed_before_the_first_device_or_the_user_is_told_once(given, early, expected):
    unset = {name: v for name, v in os.environ.items() if name not in ("PJRT_NPROC", "NPROC")}
    words = [sys.executable, "-c", POOL, *(["early"] if early else [])]
    environment = {**unset, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", **given}
    assert subprocess.check_output(words, env=environment, text=True).strip() == expected


def changed(**parts):
    environment = {
        name: {**value, **parts.get(name, {})} if isinstance(value, dict) else value
        for name, value in RECORD["environment"].items()
    }
    return {**RECORD, "environment": environment}


def test_environments_that_differ_in_what_bits_depend_on_are_told_apart():
    base = changed(variables={"PJRT_NPROC": "8"}, host={"cores": 2})
    pool = "CPU thread pool"
    assert numerics_environment(base)[pool] == 8
    unset = changed(host={"cores": 2})
    del unset["environment"]["variables"]["PJRT_NPROC"]
    assert numerics_environment(unset)[pool] == max(2, base["environment"]["devices"]["local"])
    for other in (
        unset,
        changed(variables={"PJRT_NPROC": "16"}),
        changed(devices={"local": 12}),
        changed(devices={"kind": "H200"}),
        changed(host={"instructions": "another processor"}),
        changed(host={"processes": 2}),
        changed(variables={"XLA_FLAGS": "--xla_cpu_enable_fast_math=true"}),
        changed(settings={"jax_default_matmul_precision": "bfloat16"}),
        changed(versions={"jax": "0.0"}),
        {**base, "options": {"devices": 2}},
        {**base, "options": {"steps_per_call": 2}},
    ):
        assert numerics_environment(other) != numerics_environment(base)


def test_environments_that_differ_in_nothing_else_are_equal():
    base = changed(variables={"PJRT_NPROC": "8"}, host={"cores": 2})
    for other in (
        changed(variables={"PJRT_NPROC": "8"}, host={"cores": 64}),
        changed(variables={"PJRT_NPROC": "8"}, devices={"local": 8, "count": 8}),
    ):
        assert numerics_environment(other) == numerics_environment(base)
    several, more = ({**base, "options": {"steps_per_call": n}} for n in (2, 64))
    assert numerics_environment(several) == numerics_environment(more)
    elastic = {**base, "config": {"elastic": 4}}
    others = [
        {**elastic, "options": {"devices": 4}},
        {**changed(host={"processes": 2}), "config": {"elastic": 4}},
    ]
    for other in others:
        assert numerics_environment(other) == numerics_environment(elastic)


def test_a_damaged_record_has_no_pool_size():
    for environment in ({}, {"variables": {"PJRT_NPROC": "x"}}, {"host": 3, "devices": None}):
        assert thread_pool_size(environment) is None


def test_a_gpu_that_may_not_repeat_is_told_once(monkeypatch):
    monkeypatch.setattr(deterministic, "_noted", False)
    assert not [*deterministic_notes()]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setenv("XLA_FLAGS", f"--xla_gpu_autotune_level=0 {DETERMINISTIC_FLAG}")
    assert not [*deterministic_notes()]
    monkeypatch.setenv("XLA_FLAGS", "")
    (note,) = deterministic_notes()
    assert f"XLA_FLAGS={DETERMINISTIC_FLAG}" in note
    assert not [*deterministic_notes()]
