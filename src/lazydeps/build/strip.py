"""Take out of a shared object what no loader reads: debug information, the static symbol table, compiler comments.

Written in Python because the file is often for another architecture, which the machine's own `strip` need not know, and
may not be there at all. It moves nothing: what is kept stays at its offset, and the rest of the file is left out.
"""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, Any

from elftools.common.exceptions import ELFError
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile

from lazydeps.errors import LazydepsError

if TYPE_CHECKING:
    from pathlib import Path

# The layout of 64-bit ELF files: System V ABI, chapter 4, "ELF Header" and "Section Header".
_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
_E_SHOFF = slice(40, 48)
"""The ELF header's field that says where the section headers are."""
_E_SHNUM = slice(60, 64)
"""Its last two fields: how many section headers there are, and which of them has their names."""
_SHT_STRTAB = 3
_SLACK = 4096
"""Bytes that are not worth rewriting a file for: section headers and names, which have to stay, are about that long."""


def strip_elf(content: bytes) -> bytes:
    """Return an ELF file without the sections that are not loaded.

    Every segment keeps its place and its bytes, except that the ELF header, which the first one maps, points to a
    new table of section headers. The sections of the loaded parts stay in that table under their old numbers, which
    the dynamic symbols refer to: the loader would do without a table, but `readelf`, debuggers, scanners for
    vulnerabilities and this project's own `elf` find symbols and versions through it.

    Args:
        content: a 64-bit little-endian executable or shared object, of whatever architecture.

    Returns:
        The stripped file; ``content`` itself where nothing would be saved.

    Raises:
        LazydepsError: the file is of another kind or damaged, or stripping would change what is loaded.
    """
    try:
        before = ELFFile(io.BytesIO(content))
        if before.elfclass != 64 or not before.little_endian or not any(before.iter_segments("PT_LOAD")):
            raise LazydepsError("only 64-bit little-endian ELF files that a loader maps can be stripped.")
        stripped = _without_unloaded(content, before)
        _check_loaded(content, stripped)
    except (ELFError, struct.error, UnicodeDecodeError) as error:
        raise LazydepsError(f"an ELF file that cannot be read cannot be stripped: {error}.") from error
    return stripped if len(stripped) < len(content) else content


def worth_stripping(path: Path) -> bool:
    """Tell whether stripping a file would save something, from its headers alone: a library can be huge.

    Only what `strip_elf` takes counts: 64-bit little-endian executables and shared objects. Nor does a file that
    carries bytes behind all that its headers name, as programs do that read data appended to themselves.
    """
    with path.open("rb") as stream:
        if stream.read(6) != b"\x7fELF\x02\x01":
            return False
        size = stream.seek(0, io.SEEK_END)
        try:
            elf = ELFFile(stream)
            sections = [section for section in elf.iter_sections() if section["sh_type"] != "SHT_NOBITS"]
            segments = [segment["p_offset"] + segment["p_filesz"] for segment in elf.iter_segments("PT_LOAD")]
            ends = [(section["sh_offset"] + section["sh_size"], section["sh_flags"]) for section in sections]
        except (ELFError, UnicodeDecodeError):
            return False
        if not segments or size > max([*segments, *(end for end, _ in ends), _headers_end(elf)]) + _SLACK:
            return False
        loaded = max([*segments, *(end for end, flags in ends if flags & SH_FLAGS.SHF_ALLOC)])
    return size - loaded > _SLACK


def _headers_end(elf: Any) -> int:
    end: int = elf["e_shoff"] + elf["e_shnum"] * elf["e_shentsize"]
    return end


def _without_unloaded(content: bytes, elf: Any) -> bytes:
    """Cut the file off behind all that is loaded and give it section headers for what is left."""
    header = elf.header
    sections = list(elf.iter_sections())
    loaded = [number for number, section in enumerate(sections) if section["sh_flags"] & SH_FLAGS.SHF_ALLOC]
    ends: list[int] = [segment["p_offset"] + segment["p_filesz"] for segment in elf.iter_segments()]
    ends += [
        sections[number]["sh_offset"] + sections[number]["sh_size"]
        for number in loaded
        if sections[number]["sh_type"] != "SHT_NOBITS"
    ]
    end = max(*ends, header["e_phoff"] + header["e_phnum"] * header["e_phentsize"])
    if end > len(content):
        raise LazydepsError(f"the ELF file is cut off: what is loaded ends at byte {end}, the file at {len(content)}.")
    names = bytearray(1)  # by convention the string at 0 is empty: the name of what has none
    headers: list[bytes] = [bytes(_SECTION_HEADER.size)] * (max(loaded, default=0) + 1)
    for number in loaded:
        at = header["e_shoff"] + number * header["e_shentsize"]
        fields = list(_SECTION_HEADER.unpack_from(content, at))
        fields[0] = len(names)
        names += sections[number].name.encode() + b"\0"
        if fields[6] not in loaded:
            fields[6] = 0  # sh_link to a section that is gone
        headers[number] = _SECTION_HEADER.pack(*fields)
    names_number = len(headers)
    name_of_names = len(names)
    names += b".shstrtab\0"
    headers.append(_SECTION_HEADER.pack(name_of_names, _SHT_STRTAB, 0, 0, end, len(names), 0, 0, 1, 0))
    out = bytearray(content[:end]) + names
    out += bytes(-len(out) % 8)  # Elf64_Shdr is aligned to 8 bytes
    out[_E_SHOFF] = len(out).to_bytes(8, "little")
    out[_E_SHNUM] = struct.pack("<HH", len(headers), names_number)
    return bytes(out + b"".join(headers))


def _check_loaded(content: bytes, stripped: bytes) -> None:
    """Check that a loader finds in the stripped file, byte by byte, what it found before."""
    before, after = (ELFFile(io.BytesIO(file)) for file in (content, stripped))
    old, new = (_without_section_fields(file) for file in (content, stripped))
    segments = list(before.iter_segments())  # PT_DYNAMIC is one of them
    same = [segment.header for segment in segments] == [segment.header for segment in after.iter_segments()]
    spans = [slice(segment["p_offset"], segment["p_offset"] + segment["p_filesz"]) for segment in segments]
    spans.append(slice(0, before["e_ehsize"]))
    if not same or any(old[span] != new[span] for span in spans):
        raise LazydepsError("stripping would have changed what is loaded, so the file was left as it was.")
    if _loaded_sections(before) != _loaded_sections(after):
        raise LazydepsError("stripping would have lost the place of a loaded section, so the file was left as it was.")


def _without_section_fields(content: bytes) -> bytearray:
    """Blank the fields of the ELF header that stripping has to change."""
    blanked = bytearray(content)
    for field in (_E_SHOFF, _E_SHNUM):
        blanked[field] = bytes(field.stop - field.start)
    return blanked


def _loaded_sections(elf: Any) -> list[tuple[int, str, int, int]]:
    """Return number, name, offset and size of each section that is loaded."""
    return [
        (number, section.name, section["sh_offset"], section["sh_size"])
        for number, section in enumerate(elf.iter_sections())
        if section["sh_flags"] & SH_FLAGS.SHF_ALLOC
    ]
