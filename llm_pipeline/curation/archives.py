"""The members of a zip file, each as a bounded stream; of a damaged archive, those that come before the damage."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath

from llm_pipeline.curation.unpack import BLOCK, MAX_UNPACKED, Damage, Meter, Stream, blocks_of

MAX_MEMBERS, MAX_BOMBS = 100_000, 8
"""Of an archive; after so many bombs nothing more is unpacked from it."""
_MEMBER = b"PK\3\4"


def zip_members(path: Path) -> Iterator[tuple[str, Stream]]:
    """(name, bytes) of every file in an archive, read in place: nothing is written to disk, so no name can lead anywhere."""
    try:
        archive = zipfile.ZipFile(path)
    except OSError as error:
        yield "", Stream(_raising(f"unreadable: {error.strerror or type(error).__name__}"))
        return
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        yield from _salvaged(path, f"broken_zip: {error}")
        return
    with archive:
        infos = [info for info in archive.infolist() if not info.is_dir()]
        total = Meter(Stream(()), path.stat().st_size)
        for info in infos[:MAX_MEMBERS]:
            with closing(_member(archive, info, total)) as content:
                yield info.filename, Stream(content)
        if len(infos) > MAX_MEMBERS:
            yield "", Stream(_raising(f"too_many_members: received {len(infos)}, the limit is {MAX_MEMBERS}"))


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, total: Meter) -> Generator[bytes]:
    """The bytes of a member; all members together are held to the ratio too, because they may share packed bytes."""
    _refuse_unsafe(info.filename)
    if info.flag_bits & 1:
        raise Damage("encrypted: the member needs a password")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Damage(f"unsupported_compression: method {info.compress_type}, expected stored or deflated")
    own = Meter(Stream(()), info.compress_size)
    try:
        with archive.open(info) as file:
            while block := file.read(BLOCK):
                yield own.out(total.out(block))
    except Damage:
        total.bombs += 1
        total.unpacked -= own.unpacked if total.bombs < MAX_BOMBS else -MAX_UNPACKED
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise Damage(f"corrupt_zip: {error or type(error).__name__}") from error


def _salvaged(path: Path, problem: str) -> Iterator[tuple[str, Stream]]:
    """What can be read from front to back of an archive whose directory, which stands at its end, is lost; then the problem."""
    from stream_unzip import UnzipError, stream_unzip

    with path.open("rb") as file:
        begins_well = file.read(len(_MEMBER)) == _MEMBER
    total = Meter(Stream(()), path.stat().st_size)
    try:
        for number, (name, _, blocks) in enumerate(stream_unzip(blocks_of(path), chunk_size=BLOCK) if begins_well else ()):
            if number == MAX_MEMBERS or total.bombs:
                break
            text = name.decode("utf-8", "replace")
            if not text.endswith("/"):
                yield text, Stream(_salvaged_member(text, blocks, total))
            for block in blocks:  # what the reader left, or all of a folder's entry: the next member begins behind it
                total.out(block)
    except (UnzipError, Damage, OSError):
        pass  # nothing more can be read; `problem` says so
    yield "", Stream(_raising(problem))


def _salvaged_member(name: str, blocks: Iterable[bytes], total: Meter) -> Iterator[bytes]:
    from stream_unzip import UnzipError

    _refuse_unsafe(name)
    try:
        for block in blocks:
            yield total.out(block)
    except Damage:
        total.bombs += 1
        raise
    except UnzipError as error:
        raise Damage(f"corrupt_zip: {type(error).__name__}") from error


def _refuse_unsafe(name: str) -> None:
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts:
        raise Damage("unsafe_path: the name leads out of the archive")


def _raising(problem: str) -> Iterator[bytes]:
    yield from ()
    raise Damage(problem)
