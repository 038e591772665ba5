"""The README is true: its commands run as written, its experiment trains, its links work."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```console\n(.*?)```", README, re.S)
    for line in block.splitlines()
]
THIS = "scripts/test"  # the command that runs this test


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A fresh copy of the tracked files, with the repository's environment."""
    subprocess.run([ROOT / "scripts" / "setup"], check=True)
    folder = tmp_path_factory.mktemp("clone") / "jdl"
    files = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")[:-1]
    for file in files:
        if (ROOT / file).exists():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, folder / file)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    return folder


def test_the_commands_run_as_written(clone):
    assert THIS in COMMANDS
    assert "scripts/train" in COMMANDS
    environment = {
        **os.environ,
        "XLA_FLAGS": "",
        "PYTHONPATH": str(clone),
    }  # jdl is what git has of it
    for command in COMMANDS:
        if command != THIS:
            done = subprocess.run(
                command,
                shell=True,
                cwd=clone,
                env=environment,
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
    assert (clone / "runs" / "digits_cnn").is_dir()
    reached = re.findall(r"^test +accuracy +(\d\.\d+)", done_output(clone), re.M)
    assert float(reached[0]) >= 0.985


def done_output(clone):
    return subprocess.check_output(["jdl", "evaluate", "digits_cnn"], cwd=clone, text=True)


def test_the_experiment_trains(tmp_path):
    (tmp_path / "readme.py").write_text(re.search(r"```python\n(.*?)```", README, re.S)[1])
    done = subprocess.run(
        ["jdl", "train", "readme.py", "--steps", "100"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "test   accuracy" in done.stdout


@pytest.mark.parametrize(
    "page", ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
)
def test_links_lead_to_files_of_the_repository(page):
    path = ROOT / page
    for target in re.findall(r"\]\((?!http)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_every_picture_of_a_task_is_shown_and_small():
    shown = (ROOT / "docs" / "tasks.md").read_text()
    for picture in (ROOT / "docs" / "assets" / "tasks").glob("*.png"):
        assert picture.stat().st_size <= 60_000
        assert f"assets/tasks/{picture.name}" in shown


def test_every_experiment_stands_in_the_readme():
    for script in (ROOT / "experiments").glob("*.py"):
        assert f"(experiments/{script.name})" in README, script.name
