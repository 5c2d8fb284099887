"""Compressed files, read through and written, and what is told of a file that turns out to be no text.

The formats are those of fsspec's registry, which is imported with the first compressed file and not before. A format is
known by its first bytes, or else by the ending of the name; zip, which holds several files, is not among them.
"""

from __future__ import annotations

import codecs
import sys
import zlib
from importlib.util import find_spec
from typing import IO, Any, NamedTuple

from sage_flow.errors import InputError

__all__ = [
    "check_can_write",
    "fault_at_start",
    "is_binary",
    "packed",
    "read_faults",
    "unpacked",
    "why_undecodable",
    "without_ending",
]


class _Format(NamedTuple):
    """`name` is fsspec's; `magic`: the first bytes, which no text has; `package`: what Python itself may lack."""

    name: str
    ending: str
    magic: bytes
    package: str = ""


_FORMATS = (
    _Format("gzip", ".gz", b"\x1f\x8b"),
    _Format("bz2", ".bz2", b"1AY&SY"),  # behind "BZh" and a digit
    _Format("bz2", ".bz2", b"\x17rE8P\x90"),  # of nothing
    _Format("xz", ".xz", b"\xfd7zXZ\0"),
    _Format("lzma", ".lzma", b""),
    _Format("zstd", ".zst", b"\x28\xb5\x2f\xfd", "backports.zstd"),
    _Format("lz4", ".lz4", b"\x04\x22\x4d\x18", "lz4"),
)

_FAULTS = (OSError, EOFError, UnicodeError, zlib.error, RuntimeError)
_FAULTS_OF_MODULES = (
    ("zipfile", "BadZipFile"),
    ("lzma", "LZMAError"),
    ("backports.zstd", "ZstdError"),
    ("compression.zstd", "ZstdError"),
    ("isal.isal_zlib", "error"),
)

_BINARY = (
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"Obj\x01", "an Avro file"),
    (b"ORC", "an ORC file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"SQLite format 3", "an SQLite database"),
    (b"%PDF-", "a PDF document"),
    (b"\xd0\xcf\x11\xe0", "an old Office document"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
)


def read_faults() -> tuple[type[Exception], ...]:
    """What reading a broken file can raise; names only modules that are imported, so the others have no part in it."""
    known = [(sys.modules.get(module), name) for module, name in _FAULTS_OF_MODULES]
    return _FAULTS + tuple(getattr(module, name) for module, name in known if hasattr(module, name))


def unpacked(file: IO[bytes], head: bytes, path: str) -> IO[bytes]:
    """Return the data in `file`, which begins with `head`, unpacked if it is compressed. Raises InputError."""
    name = _by_first_bytes(head) or _by_ending(path)
    if name is None or not head:  # an empty file has no records, whatever it is called
        return file
    stream: IO[bytes] = _opener(name, path)(file, mode="rb")
    return stream


def packed(file: IO[bytes], path: str) -> IO[bytes]:
    """Return what compresses into `file` as the ending of `path` says. Raises InputError."""
    name = _by_ending(path)
    if name is None:
        return file
    if name == "gzip":
        import gzip

        return gzip.GzipFile("", "wb", 6, file, mtime=0)  # type: ignore[return-value]  # equal records, equal bytes
    stream: IO[bytes] = _opener(name, path)(file, mode="wb")
    return stream


def check_can_write(path: str) -> None:
    """Raises InputError if nothing here can write the format that the ending of `path` says."""
    if path.lower().endswith(".zip"):
        raise InputError(f"{path}: zip files can be read, but not written; use .gz")
    if (name := _by_ending(path)) is not None:
        _opener(name, path)


def without_ending(path: str) -> str:
    """Return `path` without the ending of a compression: `a.csv` of `a.csv.gz`."""
    ending = next((each.ending for each in _FORMATS if path.lower().endswith(each.ending)), "")
    return path[: len(path) - len(ending)]


def _opener(name: str, path: str) -> Any:
    package = next(each.package for each in _FORMATS if each.name == name)
    missing = bool(package) and not _is_installed(name, package)
    from fsspec.compression import compr

    if missing or name not in compr:
        cure = f"pip install {package}" if package else "this Python was built without it"
        raise InputError(f"{path}: is {name}, which needs a package that is not installed: {cure}")
    return compr[name]


def _is_installed(name: str, package: str) -> bool:
    if name == "zstd":
        # Of fsspec's other choice, zstandard, only the first frame of a file would be read.
        return sys.version_info >= (3, 14) or _has(package)
    return _has(package)


def _has(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # the package around it is missing
        return False


def _by_first_bytes(head: bytes) -> str | None:
    start = head[4:] if head[:3] == b"BZh" else head
    return next((each.name for each in _FORMATS if each.magic and start.startswith(each.magic)), None)


def _by_ending(path: str) -> str | None:
    return next((each.name for each in _FORMATS if path.lower().endswith(each.ending)), None)


def fault_at_start(head: bytes, encoding: str) -> str:
    """Return what is wrong with the unpacked data of a file that begins with `head`; empty if nothing is to be seen.

    This is for what would decode in some encodings, and be taken for text.
    """
    if (inner := _by_first_bytes(head)) is not None:
        return f"is compressed twice, its content is {inner} again; unpack it once"
    if head[257:262] == b"ustar":
        return "is a tar archive; unpack it, and read the files in it"
    wide = _wide_encoding(head)
    if wide is None or codecs.lookup(encoding).name.startswith(("utf-16", "utf-32")):
        return ""
    return f"is {wide} and not {encoding}; pass encoding={wide!r}"


def is_binary(head: bytes) -> bool:
    """Whether data that begins with `head` and is not in the encoding is no text at all."""
    return b"\0" in head or head.startswith(tuple(magic for magic, _ in _BINARY))


def why_undecodable(head: bytes, encoding: str) -> str:
    """Return what is wrong with data that begins with `head` and is not in the encoding, and the cure."""
    for magic, kind in _BINARY:
        if head.startswith(magic):
            return f"is {kind}, not text; convert it, or read it with its own library in a Source"
    if b"\0" in head:
        return f"is not {encoding}; its first bytes are binary data; convert it, or read it in a Source of your own"
    return f"is not {encoding}; pass the encoding of the file, such as encoding='cp1252'"


def _wide_encoding(head: bytes) -> str | None:
    """UTF-16 or UTF-32, by its mark, or by the zeros between letters that are mostly ASCII."""
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "utf-32"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    zeros = [_share_of_zeros(head[place::4]) for place in range(4)]
    patterns = {"1110": "utf-32-be", "0111": "utf-32-le", "1010": "utf-16-be", "0101": "utf-16-le"}
    if len(head) < 8 or any(0.1 < share < 0.8 for share in zeros):
        return None
    return patterns.get("".join(str(round(share)) for share in zeros))


def _share_of_zeros(data: bytes) -> float:
    return data.count(0) / len(data) if data else 0.0
