"""What is copied to a mirror, and removed there, while training goes on and deletes checkpoints.

Seen to fail: a manifest without a file that it lists, an error where checkpoints were deleted,
older ones removed though no newer one was copied, later ones that stayed, all copied anew, what was
added there left in a checkpoint, an intact one removed that is damaged here, a lost bucket that was
no error, small files that stayed or were not copied again, logs that were removed, a listing that
met the deletion of a checkpoint, and the mirror compared with a damaged one.
"""

import os
import shutil
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from test_mirror import damage, files, stopped

from jdl.store.manifest import NAME, move_damaged_aside
from jdl.store.mirror import Mirror, _small_files
from jdl.types import Error


@pytest.fixture
def fs():
    """A file system in memory, empty."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    return memory


@pytest.fixture(scope="module")
def paused(tmp_path_factory):
    """A run that was stopped at step 8, with checkpoints of steps 3, 6 and 8."""
    return stopped(tmp_path_factory.mktemp("paused"), keep=9)


@pytest.fixture
def folder(paused, tmp_path):
    """Its folder, for a test to change."""
    return shutil.copytree(paused, tmp_path / "run")


def lose_the_bucket(self, path, name, **options):
    """Copies no file of a checkpoint, as S3 does where there is no bucket."""
    if "/checkpoints/" in name:
        raise FileNotFoundError("The specified bucket does not exist")


@pytest.mark.parametrize(
    ("before", "target", "deleted", "left"),
    [
        ("6", "run.json", "*", {"6"}),
        ("6", "run.json", "8", {"3", "6"}),
        ("", "run.json", "[68]", {"3", "6"}),
        ("", "checkpoints/8/", "*", {"6"}),
    ],
)
def test_checkpoints_that_are_deleted_while_they_are_copied_are_skipped(
    fs, folder, tmp_path, monkeypatch, before, target, deleted, left
):
    """As training may where no hard links keep them; what the mirror has already stays."""
    shutil.copytree(folder / "checkpoints" / "6", tmp_path / "old" / "6")
    Mirror(fs, "/m", folder).push(tmp_path / "old")
    if before:
        shutil.rmtree(folder / "checkpoints" / before)
    put_file = MemoryFileSystem.put_file

    def put_and_delete(self, path, name, **options):
        put_file(self, path, name, **options)
        if target in name:
            for checkpoint in (folder / "checkpoints").glob(deleted):
                shutil.rmtree(checkpoint)

    monkeypatch.setattr(MemoryFileSystem, "put_file", put_and_delete)
    Mirror(fs, "/m", folder).push(folder / "checkpoints")
    Mirror(fs, "/m", tmp_path / "new").pull()
    assert {path.name for path in (tmp_path / "new" / "checkpoints").iterdir()} == left


def test_the_mirror_follows_the_checkpoints_here(fs, folder, tmp_path, monkeypatch):
    """Later ones are of a training that is lost; one that differs is copied anew, others never."""
    copy = Mirror(fs, "/m", folder)
    copy.push(folder / "checkpoints")
    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "put_file", lose_the_bucket)
        copy.push(folder / "checkpoints")
    for name in NAME, "added":
        fs.pipe_file(f"/m/checkpoints/6/{name}", b"{}")
    for gone, left in (8, {"3", "6"}), (3, {"6"}):
        shutil.rmtree(folder / "checkpoints" / str(gone))
        copy.push(folder / "checkpoints")
        assert {Path(name).name for name in fs.ls("/m/checkpoints", detail=False)} == left
    Mirror(fs, "/m", tmp_path / "new").pull()
    assert files(tmp_path / "new") == files(folder)


def test_damage_here_costs_no_intact_checkpoint_there(fs, folder):
    """Training would go on from an older one, and remove the mirror's."""
    copy = Mirror(fs, "/m", folder)
    copy.push(folder / "checkpoints")
    copy.check_not_ahead()
    damage(folder / "checkpoints" / "6")
    copy.check_not_ahead()
    damage(folder / "checkpoints" / "8")
    wrong = r"later than all intact ones of .*/8 is damaged: .* has changed since .*: move that"
    for _ in range(2):
        with pytest.raises(Error, match=wrong):
            copy.check_not_ahead()
        move_damaged_aside(folder / "checkpoints")
        wrong = r"of step 8, later than all of .*run: move that"


def test_what_is_moved_aside_as_damaged_here_stays_there(fs, folder, tmp_path):
    """Such as the best one; what a kill left here is no reason to keep more there."""
    copy = Mirror(fs, "/m", folder)
    copy.push(folder / "checkpoints")
    damage(folder / "checkpoints" / "6")
    (folder / "checkpoints" / "3" / NAME).unlink()
    move_damaged_aside(folder / "checkpoints")
    copy.push(folder / "checkpoints")
    Mirror(fs, "/m", tmp_path / "new").pull()
    assert {path.name for path in (tmp_path / "new" / "checkpoints").iterdir()} == {"6", "8"}


def test_a_manifest_follows_all_files_that_it_lists(fs, folder):
    (folder / "checkpoints" / "8" / "state" / "_METADATA").unlink()
    Mirror(fs, "/m", folder).push(folder / "checkpoints")
    assert fs.exists(f"/m/checkpoints/6/{NAME}")
    assert not fs.exists(f"/m/checkpoints/8/{NAME}")


def test_a_mirror_that_loses_its_bucket_is_an_error(fs, folder, monkeypatch):
    """And is not taken for a checkpoint that is gone."""
    monkeypatch.setattr(MemoryFileSystem, "put_file", lose_the_bucket)
    with pytest.raises(FileNotFoundError, match="bucket"):
        Mirror(fs, "/m", folder).push(folder / "checkpoints")


def test_the_small_files_are_listed_without_a_look_at_checkpoints(folder, monkeypatch):
    """Training deletes checkpoints at this time."""
    scandir = os.scandir
    for name in "samples", ".mirror/0":
        (folder / name).mkdir(parents=True)
        (folder / name / "8.png").write_text("picture")

    def scan(path):
        if "checkpoints" in str(path) or ".mirror" in str(path):
            raise FileNotFoundError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    assert {"run.json", "metrics.jsonl", "samples/8.png"} <= set(_small_files(folder))


def test_small_files_that_are_gone_are_removed_there_and_logs_never(fs, folder, tmp_path):
    copy = Mirror(fs, "/m", folder)
    picture, log_file = folder / "samples" / "8.png", folder / "metrics.jsonl"
    picture.parent.mkdir()
    picture.write_text("picture")
    copy.push(folder / "checkpoints")
    aside = picture.rename(tmp_path / "8.png"), log_file.rename(tmp_path / "metrics.jsonl")
    copy.push(folder / "checkpoints")
    assert not fs.exists("/m/samples/8.png")
    assert fs.exists("/m/metrics.jsonl")
    aside[0].rename(picture)  # the same time and size
    copy.push(folder / "checkpoints")
    assert fs.exists("/m/samples/8.png")
