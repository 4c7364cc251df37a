"""Stripping: zstandard's real extension modules for both architectures, and small made-up files for the rules."""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from elftools.elf.elffile import ELFFile

from lazydeps.build import resolve, strip
from lazydeps.build.elf import ElfTree
from lazydeps.build.interpreters import require_interpreter
from lazydeps.build.strip import strip_elf
from lazydeps.errors import LazydepsError

if TYPE_CHECKING:
    from collections.abc import Callable

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture(scope="module", params=["x86_64", "arm64"])
def extension(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C extension of zstandard as its wheel has it: 11 MB, of which 1 MB is loaded."""
    tree = tmp_path_factory.mktemp(request.param) / "tree"
    resolve.install(["zstandard"], into=tree, interpreter=require_interpreter(MINOR), arch=request.param, glibc="2.17")
    (path,) = (tree / "zstandard").glob("backend_c.*.so")
    return path


def loaded(content: bytes) -> list[tuple[dict[str, object], bytes]]:
    """Return each segment's header and bytes, without the three fields of the ELF header about sections."""
    blanked = bytearray(content)
    blanked[40:48] = bytes(8)
    blanked[60:64] = bytes(4)
    segments = ELFFile(io.BytesIO(content)).iter_segments()
    headers = [dict(segment.header) for segment in segments]
    return [(header, bytes(blanked[header["p_offset"] :][: header["p_filesz"]])) for header in headers]


def sections(content: bytes) -> list[str]:
    """Return the names of the sections, in order."""
    return [section.name for section in ELFFile(io.BytesIO(content)).iter_sections()]


def test_what_is_loaded_stays(extension: Path) -> None:
    """Every segment is what it was, byte by byte, and nine tenths of the file are gone."""
    content = extension.read_bytes()
    stripped = strip_elf(content)
    assert loaded(stripped) == loaded(content)
    assert sum(header["p_type"] == "PT_LOAD" for header, _ in loaded(stripped)) >= 2
    assert len(content) > 10_000_000
    assert len(stripped) < 1_000_000


def test_what_tools_read_stays(extension: Path, tmp_path: Path) -> None:
    """The dynamic section, the exported symbols and the versions asked for are found through sections as before."""
    content = extension.read_bytes()
    stripped = strip_elf(content)
    assert {".debug_info", ".symtab", ".strtab"} < set(sections(content))
    # The dynamic symbols name their sections by number, so the sections that stay keep theirs.
    assert [*sections(stripped)[:-1], ".shstrtab"] == [*sections(content)[: len(sections(stripped)) - 1], ".shstrtab"]
    (tmp_path / "stripped.so").write_bytes(stripped)
    (tmp_path / "whole.so").write_bytes(content)
    tree = ElfTree(tmp_path, ["stripped.so"])
    assert tree.exports("stripped.so", "PyInit_backend_c")
    assert not tree.exports("stripped.so", "PyInit_other")
    assert tree.required_glibc() == ElfTree(tmp_path, ["whole.so"]).required_glibc() != ""
    assert tree.dynamic("stripped.so") == tree.dynamic("whole.so")
    assert tree.dynamic("stripped.so").needed


def test_nothing_left_to_strip(extension: Path) -> None:
    """A stripped file comes back as it is."""
    stripped = strip_elf(extension.read_bytes())
    assert strip_elf(stripped) is stripped


def test_it_is_checked_before_it_is_returned(extension: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte that changes where something is loaded, or a header that no longer names its section, is an error."""
    content = extension.read_bytes()
    right = strip._without_unloaded
    last = loaded(content)[0][0]["p_filesz"]
    assert isinstance(last, int)

    def returning(change: Callable[[bytearray], None]) -> None:
        def wrong(content: bytes, elf: object) -> bytes:
            changed = bytearray(right(content, elf))
            change(changed)
            return bytes(changed)

        monkeypatch.setattr(strip, "_without_unloaded", wrong)

    def flip(at: int) -> Callable[[bytearray], None]:
        def change(file: bytearray) -> None:
            file[at] ^= 1

        return change

    for at in (last - 1, 24, 64 + 8):  # a byte of the first segment, the entry point, a program header
        returning(flip(at))
        with pytest.raises(LazydepsError, match="would have changed what is loaded"):
            strip_elf(content)

    def move_a_section(file: bytearray) -> None:
        (table,) = struct.unpack_from("<Q", file, 40)
        file[table + 64 + 24] ^= 1  # sh_offset of section 1

    returning(move_a_section)
    with pytest.raises(LazydepsError, match="would have lost the place"):
        strip_elf(content)


def made_up(kinds: list[tuple[str, int, int]], *, start: int = 0) -> bytes:
    """Return an ELF file of one segment that ends at byte 256, followed by sections of 16 bytes.

    Args:
        kinds: name, sh_flags and sh_link of each section, from number 1 on. Those with flags lie in the segment.
        start: where the segment begins: at the ELF header, as linkers make it, or behind the headers.
    """
    names = b"\0" + b"".join(name.encode() + b"\0" for name, _, _ in kinds) + b".shstrtab\0"
    table = 256 + 16 * len(kinds)
    headers = [bytes(64)]
    offset = 1
    for number, (name, flags, link) in enumerate(kinds):
        place = 192 + 16 * number if flags else 256 + 16 * number
        headers.append(struct.pack("<IIQQQQIIQQ", offset, 1, flags, 0, place, 16, link, 0, 1, 0))
        offset += len(name) + 1
    headers.append(struct.pack("<IIQQQQIIQQ", offset, 3, 0, 0, table, len(names), 0, 0, 1, 0))
    table += len(names)
    count = len(headers)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = ident + struct.pack("<HHIQQQIHHHHHH", 3, 183, 1, 0, 64, table, 0, 64, 56, 1, 64, count, count - 1)
    segment = struct.pack("<IIQQQQQQ", 1, 5, start, start, 0, 256 - start, 256 - start, 4096)
    body = (header + segment).ljust(256, b"L") + b"x" * 16 * len(kinds)
    return body + names + b"".join(headers)


def with_section(content: bytes, number: int, at: int, form: str, value: int) -> bytes:
    """Return an ELF file with one field of one section header changed."""
    changed = bytearray(content)
    (table,) = struct.unpack_from("<Q", content, 40)
    struct.pack_into(form, changed, table + 64 * number + at, value)
    return bytes(changed)


def test_sections_keep_their_numbers() -> None:
    """A section that goes leaves a gap where one that stays comes after it, and no link to it."""
    content = made_up([(".comment", 0, 0), (".text", 6, 4), (".data", 3, 2), (".symtab", 0, 0)])
    assert sections(content) == ["", ".comment", ".text", ".data", ".symtab", ".shstrtab"]
    stripped = strip_elf(content)
    assert sections(stripped) == ["", "", ".text", ".data", ".shstrtab"]
    elf = ELFFile(io.BytesIO(stripped))
    assert [section["sh_type"] for section in elf.iter_sections()][:2] == ["SHT_NULL", "SHT_NULL"]
    assert [elf.get_section(number)["sh_link"] for number in (2, 3)] == [0, 2]
    assert elf["e_shoff"] % 8 == 0
    assert loaded(stripped) == loaded(content)


def test_memory_without_bytes_in_the_file() -> None:
    """What .bss takes in memory is not looked for in the file, where it may go beyond the end."""
    content = made_up([(".text", 6, 0), (".bss", 3, 0), (".comment", 0, 0)])
    content = with_section(with_section(content, 2, 4, "<I", 8), 2, 32, "<Q", 1 << 20)  # SHT_NOBITS, sh_size
    stripped = strip_elf(content)
    assert sections(stripped) == ["", ".text", ".bss", ".shstrtab"]
    assert loaded(stripped) == loaded(content)
    assert len(stripped) < len(content)


def test_a_section_beyond_the_segments() -> None:
    """A section that claims to be loaded keeps its bytes even where no segment has them."""
    content = made_up([(".text", 6, 0), (".comment", 0, 0), (".symtab", 0, 0)])
    content = with_section(content, 1, 24, "<Q", 256)  # sh_offset: just behind the segment
    stripped = strip_elf(content)
    assert sections(stripped) == ["", ".text", ".shstrtab"]
    assert ELFFile(io.BytesIO(stripped)).get_section(1).data() == b"x" * 16


@pytest.mark.parametrize("at", [24, 64 + 16], ids=["entry point", "virtual address"])
def test_headers_that_no_segment_maps_are_checked(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """A loader reads the headers from the file itself: a change there is found where no segment covers them."""
    content = made_up([(".text", 6, 0), (".comment", 0, 0)], start=192)
    strip_elf(content)
    right = strip._without_unloaded

    def wrong(content: bytes, elf: object) -> bytes:
        changed = bytearray(right(content, elf))
        changed[at] ^= 1
        return bytes(changed)

    monkeypatch.setattr(strip, "_without_unloaded", wrong)
    with pytest.raises(LazydepsError, match="would have changed what is loaded"):
        strip_elf(content)


def other_kind(*, bits: int, order: str) -> bytes:
    """Return a sound ELF file without sections, of one segment."""
    ident = b"\x7fELF" + bytes([bits // 32, "<>".index(order) + 1, 1]) + bytes(9)
    if bits == 32:
        header = ident + struct.pack(f"{order}HHIIIIIHHHHHH", 3, 40, 1, 0, 52, 0, 0, 52, 32, 1, 40, 0, 0)
        return header + struct.pack(f"{order}IIIIIIII", 1, 0, 0, 0, 84, 84, 5, 4096)
    header = ident + struct.pack(f"{order}HHIQQQIHHHHHH", 3, 22, 1, 0, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    return header + struct.pack(f"{order}IIQQQQQQ", 1, 5, 0, 0, 0, 120, 120, 4096)


def test_what_cannot_be_stripped() -> None:
    """Text, another kind of ELF, an object file and what is cut off are refused by name."""
    content = made_up([(".text", 6, 0), (".comment", 0, 0)])
    assert len(strip_elf(content)) < len(content)
    assert strip_elf(other_kind(bits=64, order="<")) == other_kind(bits=64, order="<")
    for wrong, words in (
        (b"INPUT(-lz)\n", "cannot be read"),
        (b"\x7fELF", "cannot be read"),
        (content[:200], "cannot be read"),
        (other_kind(bits=32, order="<"), "only 64-bit little-endian"),
        (other_kind(bits=64, order=">"), "only 64-bit little-endian"),
        (content[:56] + bytes(2) + content[58:], "that a loader maps"),  # no segments
    ):
        with pytest.raises(LazydepsError, match=words):
            strip_elf(wrong)


def test_a_file_that_ends_before_its_segments() -> None:
    """A segment that goes beyond the end of the file is found, although the section headers are whole."""
    content = bytearray(made_up([(".text", 6, 0), (".comment", 0, 0)]))
    struct.pack_into("<Q", content, 64 + 32, len(content) + 1)  # p_filesz
    with pytest.raises(LazydepsError, match="cut off: what is loaded ends at byte"):
        strip_elf(bytes(content))
