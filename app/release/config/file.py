"""`serve_config.yaml` on disk: read strictly, replaced whole, by one command at a time.

A lock file beside it says who is at work; the kernel frees it when its holder dies.
Invariant: the file holds one text or the next, never a part of one; it is never replaced by somebody who read another text.
"""

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import yaml

from app.core.errors import ReleaseConflict, ReleasesElsewhere, SettingsError
from app.release.config.schema import ServeConfig, read_schema


class ReadConfig(NamedTuple):
    """A text of the file, its SHA-256, what it says, and the same as plain data for Serve."""

    text: str
    digest: str
    config: ServeConfig
    data: object


class ConfigFile:
    """The file that says what runs.

    Args:
        path: of `serve_config.yaml`; a link stays one, and what it points to is replaced.
        seen: SHA-256 of the text that whoever asks has seen, which every reading must find until this one replaces it; None for whatever it holds.
    """

    def __init__(self, path: Path, seen: str | None = None) -> None:
        self._seen = seen
        self.path = path.resolve()
        self.name = path.name
        self._lock_path = self.path.with_name(f".{self.path.name}.lock")

    def read(self) -> ReadConfig:
        """Read the file.

        Raises:
            SettingsError: it can't be read, or has a key or a value that can't be used.
            ReleaseConflict: it is not as it was seen.
        """
        try:
            text = self.path.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(
                f"expected the service's configuration in '{self.path}', found: {error}"
            ) from error
        found = self.parse(text)
        if self._seen not in (None, found.digest):
            raise ReleaseConflict(
                f"expected '{self.name}' as you saw it, found it changed ({found.digest[:12]}): look at it and ask again"
            )
        return found

    def parse(self, text: str) -> ReadConfig:
        """Read a text as if it stood in the file.

        Raises:
            SettingsError: it has a key or a value that can't be used, or a key twice.
        """
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
            twice = next(_repeated_keys(root), None)
            data = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise SettingsError(
                f"expected YAML in '{self.name}', found an error: {error}"
            ) from error
        if twice is not None:
            raise SettingsError(
                f"'{self.name}' can't be used: {twice}: only the last would count, remove one"
            )
        digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
        return ReadConfig(text, digest, read_schema(data, self.name), data)

    @contextlib.contextmanager
    def exclusive(self, who: str) -> Iterator[None]:
        """Keep all other commands from changing the file meanwhile.

        Args:
            who: told to the others: the command, by whom.

        Raises:
            ReleaseConflict: another command is at work.
            ReleasesElsewhere: nothing can be written beside the file.
        """
        with self._lock() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ReleaseConflict(
                    f"expected to be alone with '{self.name}', found another command at work ({_told(lock)}): try again when "
                    "it is done"
                ) from error
            lock.truncate(0)
            lock.write(who)
            lock.flush()
            for left in self.path.parent.glob(f".{self.path.name}.*.tmp"):
                left.unlink(missing_ok=True)  # of a command that was killed
            yield

    def _lock(self) -> IO[str]:
        try:
            return self._lock_path.open("a+", encoding="utf-8")
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> ReleasesElsewhere:
        return ReleasesElsewhere(
            f"expected to write '{self.name}' and beside it, found: {error.strerror}: make it writable here, name another with "
            "HYDRAULIC_SERVE_CONFIG, or use `python -m app.release` where it is"
        )

    def replace(self, before: ReadConfig, text: str) -> ReadConfig:
        """Replace the file's text, while `exclusive` is held.

        Args:
            before: what the new text was made from.
            text: the new one.

        Returns:
            What the file says now.

        Raises:
            ReleaseConflict: the file has another text than `before`.
            SettingsError: the new text can't be used; the file stays as it is.
            ReleasesElsewhere: it can't be written.
        """
        after = self.parse(text)
        if self.path.read_bytes() != before.text.encode("utf-8"):
            raise ReleaseConflict(
                f"expected '{self.name}' as it was read ({before.digest[:12]}), found it changed since: look at it and "
                "give the command again"
            )
        try:
            self._write(text)
        except OSError as error:
            raise self._unwritable(error) from error
        self._seen = None  # it is ours from here on
        return after

    def _write(self, text: str) -> None:
        """Put a text in the file's place, whole, and have it outlast a power cut."""
        descriptor, name = tempfile.mkstemp(
            prefix=f".{self.path.name}.", suffix=".tmp", dir=self.path.parent
        )
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
                os.fchmod(descriptor, self.path.stat().st_mode & 0o777)
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            Path(name).replace(self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _sync_directory(self.path.parent)


def _sync_directory(directory: Path) -> None:
    """Make a rename in a directory outlast a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _told(lock: IO[str]) -> str:
    lock.seek(0)
    return lock.read(200).strip() or "it has not said which"


def _repeated_keys(node: yaml.Node | None) -> Iterator[str]:
    """Yield keys that a mapping has twice, which YAML readers take silently."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                yield f"line {key.start_mark.line + 1} has the key '{key.value}' a second time"
            seen.add(str(key.value))
            yield from _repeated_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _repeated_keys(item)
