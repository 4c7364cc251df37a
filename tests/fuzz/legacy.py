"""Archives that are not packs: an input is a byte that chooses the kind, then the archive.

It is read as a start reads it, checks before content, with the steps that write left out. What is accepted must lie
inside the tree, once each, and be as long as was declared.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import posixpath
import tarfile
import zipfile

from lazydeps._archive import open_archive
from lazydeps._config import MIB, Limits
from lazydeps._layout import NEVER, check_archive, lay_out
from lazydeps._ref import ARCHIVES
from lazydeps.errors import LazydepsError, PackMismatchError

from .targets import hold

LIMITS = Limits()
LIMITS.unpacked = 16 * MIB  # so that a small bomb is one already
LIMITS.files = 2000


def run(data: bytes) -> None:
    """Read an archive; what is refused, is refused with an error of ours."""
    if not data:
        return
    suffix = ARCHIVES[data[0] % len(ARCHIVES)]
    try:
        _read(io.BytesIO(data[1:]), suffix)
    except LazydepsError as error:
        hold(len(str(error)) < 20_000, "an error's text is bounded")
        hold(all(letter.isprintable() or letter == "\n" for letter in str(error)), "an error can be printed")


def _read(file: io.BytesIO, suffix: str) -> None:
    archive = open_archive(file, suffix, LIMITS)
    layout = lay_out(archive, suffix, LIMITS)
    with contextlib.suppress(PackMismatchError):  # for another interpreter: as good as any other to read
        check_archive(archive, layout, suffix)
    files = [path for paths in layout.paths.values() for path in paths]
    hold(len({path.casefold() for path in files}) == len(files), "each path once, whatever the file system")
    folders: set[str] = set()
    for path in files:
        parts = path.split("/")
        hold(not path.startswith("/") and posixpath.normpath(path) == path, "a path inside the tree")
        hold(all(0 < len(part.encode()) <= 255 and part not in {".", ".."} for part in parts), "plain parts")
        hold(not any(letter < " " or letter in "\\\x7f" for letter in path), "a plain path")
        hold(len(parts) == 1 or parts[0] not in NEVER, "nothing of the standard library")
        folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
    hold(folders.isdisjoint(files), "no file is a folder too")
    hold(layout.unpacked <= LIMITS.unpacked and len(files) <= LIMITS.files, "within the limits")
    hold(layout.names >= len(files) + len(folders), "room for each file and folder is asked for")
    written = set()
    for member, chunks in archive.contents():
        hold(member.link is None, "a link has no content")
        size = sum(map(len, chunks))
        hold(size == member.size, "a member is as long as it says")
        hold(member.name not in written, "each member once")
        written.add(member.name)
    hold(layout.paths.keys() <= written, "each file that is wanted has a content")


FILES = {
    "alpha/__init__.py": b"N = 1\n",
    "alpha/data.bin": bytes(range(256)) * 3,
    "alpha/empty": b"",
    "alpha-1.dist-info/WHEEL": b"Wheel-Version: 1.0\nTag: py3-none-any\n",
    "alpha-1.data/purelib/beta.py": b"N = 2\n",
}


def _zip(prefix: str = "", method: int = zipfile.ZIP_DEFLATED, *, wide: bool = False) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        archive.writestr(_dated(f"{prefix}alpha/"), b"")
        for name, content in FILES.items():
            info = _dated(prefix + name)
            info.compress_type = method
            with archive.open(info, "w", force_zip64=wide) as file:
                file.write(content)
        link = _dated(f"{prefix}alpha/again.py")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "__init__.py")
    return made.getvalue()


def _dated(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))


def _tar(form: int, prefix: str = "") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=form) as archive:
        long = {} if form == tarfile.USTAR_FORMAT else {f"{'d' * 60}/{'n' * 90}.py": b"N = 3\n", "größe.txt": b"x"}
        for name, content in {**FILES, **long}.items():
            info = tarfile.TarInfo(prefix + name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo(f"{prefix}alpha/again.py")
        link.type, link.linkname = tarfile.SYMTYPE, "__init__.py"
        archive.addfile(link)
    return made.getvalue().rstrip(b"\0") + bytes(1024 + 512)


def _kind(suffix: str) -> bytes:
    return bytes([ARCHIVES.index(suffix)])


def seeds() -> list[bytes]:
    """Return small archives of each kind."""
    import zstandard

    tars = [_tar(form) for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]
    tars = [content + bytes(-len(content) % 512) for content in tars]
    return [
        _kind(".zip") + _zip(),
        _kind(".zip") + _zip("python/", zipfile.ZIP_STORED),
        _kind(".zip") + _zip(wide=True),
        _kind(".whl") + _zip(),
        *(_kind(".tar") + content for content in tars),
        _kind(".tar.gz") + gzip.compress(tars[0], mtime=0),
        _kind(".tgz") + gzip.compress(tars[2][:1024], mtime=0) + gzip.compress(tars[2][1024:], mtime=0),
        _kind(".tar.zst") + zstandard.ZstdCompressor(write_checksum=True).compress(tars[2]),
    ]
