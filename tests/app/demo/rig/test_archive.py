"""The shipped archive: the published files, packed reproducibly and read in memory."""

import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from app.core.errors import ReadingError
from app.demo.rig.archive import SHIPPED_ARCHIVE, open_archive, pack
from app.demo.rig.measurements import SENSOR_IDS, CycleBlock, open_directory, read_blocks, survey

WriteRig = Callable[..., Path]

# SHA-256 of the files that were packed, taken from the source of the data, not from the archive
SOURCE_SHA256 = {
    "CE.txt": "625841b33d5a137402d3df6d041167184eac0fef1e32f96a74779446d3a71afd",
    "CP.txt": "caa1879bd9e9aec2a48d636379f174c28dc08937ff7047d2249151890bf8193e",
    "EPS1.txt": "7be398ff0f2c0f9bec8aa825f4e5e6cc70b9439c6539bc151a87985105890298",
    "FS1.txt": "52e3f73a0ebe5ba1ece777ae8dd3f31a86fb0cb17c53b683b476af87c90dbd6f",
    "FS2.txt": "75481fbe1514bc1fe63ff6ca64f04e67b152ddc2fc25010cce2d9dabe697b83b",
    "PS1.txt": "3abf2cd03e23ebbd4f3c0131cb2f5c37597da7e2e551927d9f882e8b28f9bde0",
    "PS2.txt": "e0189d2895c8be8e604f9d6ed0b9f8db436fe3f9634f460cc7c473734737413f",
    "PS3.txt": "62c1682e2b7935b34dbf0d9cbacf90b11553af9b9acb5baebd6a778376af6298",
    "PS4.txt": "4b513769c1af268120e23ffe8a52a58d95ef59addb0e5d40dd612a050f6d5ef6",
    "PS5.txt": "cab1b5dabe149cae4775a03da18f990cd3c30fa1307948fdc9971e54f26644b2",
    "PS6.txt": "06c28fee853951415ffaf4035f1e4d75d980c6ff6ca8410811840130800eaa01",
    "SE.txt": "d8db66e3e0360e62a8768ad397d72338a745e95b17d65d39cdf4ba01fcff3959",
    "TS1.txt": "b8bbba86a743282a7b23084e9bcfaa3a66445700eafef1a2d8178a9c3d501d24",
    "TS2.txt": "a725b1c2cbfb8d1d1e3199e26d0875437b7e87dd3fcc8ebbca03b0269251fda0",
    "TS3.txt": "6f47ed8b2022d51e917eac87674e042d0ebfb97f5f00abc03e7e0a923056f155",
    "TS4.txt": "28d701b7418f60cebea05e3da2541afa54a1fd3e79300da538e86f2deb914bb7",
    "VS1.txt": "6227510818dce0edc5791e0e2020077e4c0d02145bee746840ad7eabe28519b1",
    "cycle_index.txt": "c9a506371682d093d6386fe6b9766e9df2e347666fe959a08adbfe59c7ad33f2",
    "profile.txt": "24af2e9305e2529d810173daf9cf54715134182f8bf3d9eac0d1a631ec9f4195",
}


def _write_tar(path: Path, members: list[tarfile.TarInfo]) -> None:
    with tarfile.open(path, "w:xz") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(bytes(member.size)))


def test_shipped_files_are_those_of_the_source() -> None:
    contents = open_archive(SHIPPED_ARCHIVE).contents
    found = {
        name: hashlib.sha256(content).hexdigest()
        for name, content in contents.items()
        if isinstance(content, bytes)
    }
    assert found == SOURCE_SHA256


def test_shipped_data_hold_the_published_cycles() -> None:
    files = open_archive(SHIPPED_ARCHIVE)
    assert survey(files) == (1856, dict.fromkeys(SENSOR_IDS, 1))
    (rig,) = read_blocks(files, cycles_per_block=1856)
    configurations = {tuple(row) for row in rig.grades_CG.tolist()}
    assert len(configurations) == 112  # of the 144 of the original
    assert rig.cycle_index_C[[0, -1]].tolist() == [0, 2204]
    # read from the files: first two values of PS1, end of the zeros in PS2's first cycle
    assert rig.values_CR["PS1"][0, :2].tolist() == [176.9, 184.642]
    assert rig.values_CR["PS2"][0, 8:10].tolist() == [0.0, 83.0427]


def test_shipped_archive_is_below_5_megabytes_and_attributed() -> None:
    assert SHIPPED_ARCHIVE.stat().st_size < 5_000_000
    attribution = (SHIPPED_ARCHIVE.parent / "ATTRIBUTION.md").read_text()
    assert all(
        word in attribution
        for word in ("CC BY 4.0", "10.24432/C5CW21", "10.1109/I2MTC.2015.7151267", "Helwig")
    )


def test_packing_twice_gives_the_same_bytes_and_the_same_blocks(
    write_rig: WriteRig, tmp_path: Path
) -> None:
    files = open_directory(write_rig(cycles=3))
    size = pack(files, tmp_path / "one.tar.xz")
    pack(files, tmp_path / "two.tar.xz")
    packed = (tmp_path / "one.tar.xz").read_bytes()
    assert packed == (tmp_path / "two.tar.xz").read_bytes()
    assert size == len(packed)
    assert sorted(path.name for path in tmp_path.glob("*.part")) == []
    from_directory, from_archive = (
        list(read_blocks(source, cycles_per_block=2))
        for source in (files, open_archive(tmp_path / "one.tar.xz"))
    )
    for left, right in zip(from_directory, from_archive, strict=True):
        _assert_equal(left, right)


def _assert_equal(left: CycleBlock, right: CycleBlock) -> None:
    assert left.cycle_index_C.tolist() == right.cycle_index_C.tolist()
    assert left.grades_CG.tolist() == right.grades_CG.tolist()
    assert left.stable_C.tolist() == right.stable_C.tolist()
    assert left.values_CR.keys() == right.values_CR.keys()
    assert all(np.array_equal(left.values_CR[key], right.values_CR[key]) for key in left.values_CR)


def test_invalid_data_are_not_packed_and_leave_no_file(write_rig: WriteRig, tmp_path: Path) -> None:
    directory = write_rig()
    (directory / "SE.txt").write_text("x\n" * 3)
    with pytest.raises(ReadingError):
        pack(open_directory(directory), tmp_path / "out.tar.xz")
    assert list(tmp_path.iterdir()) == [directory]


@pytest.mark.parametrize("name", ["../PS1.txt", "/etc/passwd", "PS1.txt.pickle", "sub/PS1.txt"])
def test_member_outside_the_layout_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "odd.tar.xz"
    _write_tar(path, [tarfile.TarInfo(name)])
    with pytest.raises(ReadingError, match="expected only files of the rig's layout, found '"):
        open_archive(path)


def test_link_in_an_archive_is_refused(tmp_path: Path) -> None:
    link = tarfile.TarInfo("PS1.txt")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    _write_tar(tmp_path / "link.tar.xz", [link])
    with pytest.raises(ReadingError, match="expected only files"):
        open_archive(tmp_path / "link.tar.xz")


def test_member_above_the_size_limit_is_refused(tmp_path: Path) -> None:
    large = tarfile.TarInfo("PS1.txt")
    large.size = (1 << 26) + 1
    _write_tar(tmp_path / "large.tar.xz", [large])
    with pytest.raises(ReadingError, match="expected at most 67108864 bytes"):
        open_archive(tmp_path / "large.tar.xz")


def test_missing_or_damaged_archive_is_a_reading_error(tmp_path: Path) -> None:
    with pytest.raises(ReadingError, match=r"none\.tar\.xz: expected a \.tar\.xz"):
        open_archive(tmp_path / "none.tar.xz")
    damaged = tmp_path / "damaged.tar.xz"
    damaged.write_bytes(SHIPPED_ARCHIVE.read_bytes()[:50_000])
    with pytest.raises(ReadingError, match="can't be read"):
        open_archive(damaged)
