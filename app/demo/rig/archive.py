"""The rig's data as one compressed file: the files of the published layout in a .tar.xz.

It keeps the text, so values are exact and any tool can open it; scaled integers in .npz would be a
fifth smaller. Nothing is unpacked to disk.
Invariant: the same files give the same bytes, with the same version of liblzma.
"""

import io
import lzma
import tarfile
from pathlib import Path

from app.core.errors import ReadingError
from app.demo.rig.measurements import FILE_NAMES, INDEX_FILE, PROFILE_FILE, RigFiles, read_blocks

SHIPPED_ARCHIVE = Path(__file__).resolve().parent / "data" / "uci_hydraulic.tar.xz"
MAX_MEMBER_BYTES = 1 << 26

_ORDER = (PROFILE_FILE, INDEX_FILE, *FILE_NAMES[:-2])
_PRESET = 6 | lzma.PRESET_EXTREME
_REPAIR = "pack it anew with `hydraulic demo pack-rig`"


def pack(files: RigFiles, archive: Path) -> int:
    """Check a copy of the data, write it as an archive, and return the archive's size in bytes.

    An existing archive is replaced atomically.

    Raises:
        ReadingError: the data are not in the layout, or a file exceeds `MAX_MEMBER_BYTES`.
    """
    for _ in read_blocks(files, cycles_per_block=64):
        pass
    part = archive.with_name(archive.name + ".part")
    try:
        with (
            lzma.open(part, "wb", preset=_PRESET) as packed,
            tarfile.open(fileobj=packed, mode="w") as tar,
        ):
            for name in _ORDER:
                if name in files.contents:
                    with files.open(name) as stream:
                        content = stream.read(MAX_MEMBER_BYTES + 1)
                    _check_size(name, len(content))
                    # default time, owner and mode make the archive reproducible
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        part.replace(archive)
    finally:
        part.unlink(missing_ok=True)
    return archive.stat().st_size


def open_archive(archive: Path) -> RigFiles:
    """Read an archive into memory.

    Raises:
        ReadingError: it is missing or damaged, or has files that are not in the layout.
    """
    contents: dict[str, Path | bytes] = {}
    try:
        with tarfile.open(archive, mode="r:xz") as tar:
            for member in tar:
                if not member.isfile() or member.name not in FILE_NAMES:
                    raise ReadingError(
                        f"{archive.name}: expected only files of the rig's layout, found "
                        f"'{member.name}': {_REPAIR}"
                    )
                _check_size(member.name, member.size)
                stream = tar.extractfile(member)
                assert stream is not None  # isfile() holds
                contents[member.name] = stream.read()
    except (OSError, EOFError, tarfile.TarError, lzma.LZMAError) as error:
        raise ReadingError(
            f"{archive.name}: expected a .tar.xz in the rig's layout, found one that can't be read "
            f"({error}): {_REPAIR}"
        ) from error
    return RigFiles(archive.name, contents)


def _check_size(name: str, size: int) -> None:
    if size > MAX_MEMBER_BYTES:
        raise ReadingError(
            f"{name}: expected at most {MAX_MEMBER_BYTES} bytes in an archive, found {size}: "
            "import the directory instead",
            name,
        )
