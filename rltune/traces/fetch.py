"""Fetch a published trace: download, verify, unpack what is needed; whole or not at all."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import tarfile
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rltune.nouns.errors import InputError
from rltune.traces.folder import traces_folder

CHUNK = 1 << 20
TIMEOUT_S = 60.0
LFS_POINTER = b"version https://git-lfs"
"""What a server hands out instead of the file when its Git LFS quota is spent."""

Progress = Callable[[int, int | None], None]
"""Called with the bytes so far and in all (None: unknown)."""


@dataclass(frozen=True, slots=True)
class Publication:
    """Where a trace is published.

    Attributes:
        url: of the archive (zip or tar.gz).
        sha256: of the archive; None where none is published.
        members: base names of the files to unpack.
        inside: folder of the archive the members lie in; "" for any.
        by_hand: what to do where this machine cannot reach the address.
    """

    url: str
    sha256: str | None
    members: tuple[str, ...]
    inside: str
    by_hand: str


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came: the files unpacked, the archive's sha256, and whether a known checksum confirmed it."""

    files: tuple[Path, ...]
    sha256: str
    verified: bool


PUBLICATIONS = {
    "helios": Publication(
        url="https://github.com/S-Lab-System-Group/HeliosData/raw/HEAD/data.zip",
        sha256=None,
        members=("cluster_log.csv",),
        inside="Venus",
        by_hand="download data.zip of github.com/S-Lab-System-Group/HeliosData and put "
        "data/Venus/cluster_log.csv into helios/ of the traces folder",
    ),
    # The checksums of philly and alibaba are the object ids in the Git LFS pointers of their repositories.
    "philly": Publication(
        url="https://github.com/msr-fiddle/philly-traces/raw/HEAD/trace-data.tar.gz",
        sha256="2037ccf63a725a02be718b0e1aeee6142c90b7f62d0d849295120e9f6ba13d2c",
        members=("cluster_job_log", "cluster_machine_list"),
        inside="",
        by_hand="clone github.com/msr-fiddle/philly-traces with Git LFS, unpack trace-data.tar.gz (1 GB) "
        "and put cluster_job_log and cluster_machine_list into philly/ of the traces folder",
    ),
    "alibaba": Publication(
        url="https://aliopentrace.oss-cn-beijing.aliyuncs.com/v2020GPUTraces/pai_task_table.tar.gz",
        sha256="cd1d6dc3215d2a8607ccf6b6dd952b5db776df86926c73259fea7c1499ac40e5",
        members=("pai_task_table.csv",),
        inside="",
        by_hand="see cluster-trace-gpu-v2020/data of github.com/alibaba/clusterdata, unpack "
        "pai_task_table.tar.gz and put pai_task_table.csv into alibaba/ of the traces folder",
    ),
}


def fetch(name: str, folder: str | Path | None, progress: Progress) -> Fetched:
    """Get a published trace into ``<traces folder>/<name>/``; InputError with what to do by hand."""
    if name not in PUBLICATIONS:
        raise InputError(f"fetch: {name!r} cannot be fetched; known are {', '.join(PUBLICATIONS)}")
    publication = PUBLICATIONS[name]
    target = traces_folder(folder) / name
    made = not target.exists()
    try:
        target.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target) as scratch:
            archive = Path(scratch) / "archive"
            sha256 = _download(publication.url, archive, progress)
            _verify(archive, sha256, publication)
            unpacked = [_unpack(archive, member, publication) for member in publication.members]
            for file in unpacked:
                os.replace(file, target / file.name)
    except (OSError, http.client.HTTPException, InputError) as error:
        where = f"fetch {name} from {publication.url}"
        raise InputError(f"{where}: {error}; by hand: {publication.by_hand}") from None
    finally:
        if made and target.is_dir() and not any(target.iterdir()):
            target.rmdir()
    return Fetched(tuple(target / m for m in publication.members), sha256, publication.sha256 is not None)


def _download(url: str, path: Path, progress: Progress) -> str:
    """Stream to ``path``; the sha256 of what came."""
    digest, done = hashlib.sha256(), 0
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response, path.open("wb") as out:
        length = response.headers.get("Content-Length")
        total = int(length) if length else None
        while chunk := response.read(CHUNK):
            out.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            progress(done, total)
    if total is not None and done != total:
        raise InputError(f"the connection broke after {done} of {total} bytes")
    return digest.hexdigest()


def _verify(archive: Path, sha256: str, publication: Publication) -> None:
    with archive.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise InputError("the server sent a Git LFS pointer, not the file")
    if publication.sha256 is not None and sha256 != publication.sha256:
        raise InputError(f"sha256 is {sha256}, published is {publication.sha256}")


def _unpack(archive: Path, member: str, publication: Publication) -> Path:
    """Copy one member out beside the archive; the archive's own paths are never followed."""
    target = archive.parent / member
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:
                name = _named(packed.namelist(), member, publication)
                return _copy(packed.open(name), target)
        with tarfile.open(archive) as tar:
            found = tar.extractfile(_named(tar.getnames(), member, publication))
            if found is None:
                raise InputError(f"{member} in the archive is not a file")
            return _copy(found, target)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InputError(f"the archive is damaged or of another kind ({error})") from None


def _named(names: list[str], member: str, publication: Publication) -> str:
    for name in names:
        parts = name.split("/")
        if parts[-1] == member and (not publication.inside or publication.inside in parts[:-1]):
            return name
    raise InputError(f"no {member} in the archive")


def _copy(stream: IO[bytes], target: Path) -> Path:
    with stream, target.open("wb") as out:
        shutil.copyfileobj(stream, out)
    return target
