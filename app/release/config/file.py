"""`serve_config.yaml` on disk: strict reads, atomic replacement, one writer at a time.

The kernel releases the lock file beside it when its holder dies.
Invariant: the file holds the old or the new text, never a part; a command only replaces the text
that it read.
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
from app.release.config.weights import Split


class ReadConfig(NamedTuple):
    """The file's text, its SHA-256, the parsed configuration, and the plain data for Serve."""

    text: str
    digest: str
    config: ServeConfig
    data: object

    @property
    def split(self) -> Split:
        """All traffic weights."""
        return Split.of(self.config.traffic)

    @property
    def weights(self) -> dict[str, float]:
        """Traffic weights in percent by version, of all released versions."""
        return {release.version: release.weight for release in self.config.traffic.releases}

    def application_of(self, version: str) -> str:
        """Return the name of a released version's application."""
        release = self.config.traffic.find(version)
        assert release is not None
        return release.application


class ConfigFile:
    """Reads and replaces `serve_config.yaml`.

    Args:
        path: The file; when it is a link, its target is replaced.
        expected_digest: SHA-256 that every read must find until this object replaces the file;
            None accepts any content.
    """

    def __init__(self, path: Path, expected_digest: str | None = None) -> None:
        self._expected_digest = expected_digest
        self.path = path.resolve()
        self.name = path.name
        self._lock_path = self.path.with_name(f".{self.path.name}.lock")

    def read(self) -> ReadConfig:
        """Read the file.

        Raises:
            SettingsError: It cannot be read, or has an invalid key or value.
            ReleaseConflict: It does not have the expected digest.
        """
        found = self.parse(self.read_text())
        check_digest(found, self._expected_digest, self.name)
        return found

    def read_text(self) -> str:
        """Read the text, which need not be valid.

        Raises:
            SettingsError: It cannot be read.
        """
        try:
            return self.path.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(
                f"expected the service's configuration in '{self.path}', found: {error}"
            ) from error

    def parse(self, text: str) -> ReadConfig:
        """Parse a text as content of the file, see `parse_config`."""
        return parse_config(text, self.name)

    @contextlib.contextmanager
    def locked(self, holder: str) -> Iterator[None]:
        """Lock the file against other commands.

        Args:
            holder: The command and its actor, shown to the other commands.

        Raises:
            ReleaseConflict: Another command holds the lock.
            ReleasesElsewhere: The lock file cannot be written.
        """
        with self._open_lock() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ReleaseConflict(
                    f"expected no other command to change '{self.name}', found another command at "
                    f"work ({_holder(lock)}): try again when it is done"
                ) from error
            lock.truncate(0)
            lock.write(holder)
            lock.flush()
            for orphan in self.path.parent.glob(f".{self.path.name}.*.tmp"):
                orphan.unlink(missing_ok=True)  # of a killed command
            yield

    def _open_lock(self) -> IO[str]:
        try:
            return self._lock_path.open("a+", encoding="utf-8")
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> ReleasesElsewhere:
        return ReleasesElsewhere(
            f"expected to write '{self.name}' and its lock file, found: {error.strerror}: make "
            "them writable, set HYDRAULIC_SERVE_CONFIG to another file, or use `hydraulic "
            "release` on the machine that holds the file"
        )

    def replace(self, before: ReadConfig, text: str) -> ReadConfig:
        """Replace the file's text, while locked.

        Args:
            before: The content from which the new text was made.
            text: The new text.

        Returns:
            The new content.

        Raises:
            ReleaseConflict: The file's text is not that of `before`.
            SettingsError: The new text is invalid; the file is unchanged.
            ReleasesElsewhere: The file cannot be written.
        """
        after = self.parse(text)
        if self.path.read_bytes() != before.text.encode("utf-8"):
            raise ReleaseConflict(
                f"expected '{self.name}' as it was read ({before.digest[:12]}), found it changed "
                "since: read it and repeat the command"
            )
        try:
            self._write(text)
        except OSError as error:
            raise self._unwritable(error) from error
        self._expected_digest = None  # later reads find this text
        return after

    def _write(self, text: str) -> None:
        """Replace the file atomically, and sync it so that it survives a power failure."""
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


def parse_config(text: str, name: str) -> ReadConfig:
    """Parse a text as Serve configuration.

    Args:
        text: YAML.
        name: Of what holds it, for messages.

    Raises:
        SettingsError: It has an invalid key or value, or a repeated key.
    """
    try:
        root = yaml.compose(text, Loader=yaml.CSafeLoader)
        repeated = next(_repeated_keys(root), None)
        data = yaml.load(text, Loader=yaml.CSafeLoader)
    except yaml.YAMLError as error:
        raise SettingsError(f"expected YAML in '{name}', found an error: {error}") from error
    if repeated is not None:
        raise SettingsError(
            f"'{name}' can't be used: {repeated}: only the last would count, remove one"
        )
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    return ReadConfig(text, digest, read_schema(data, name), data)


def check_digest(found: ReadConfig, expected: str | None, name: str) -> None:
    """Check that a configuration has a digest; None accepts any.

    Raises:
        ReleaseConflict: It has another one.
    """
    if expected not in (None, found.digest):
        raise ReleaseConflict(
            f"expected '{name}' with the digest of If-Match, found it changed "
            f"({found.digest[:12]}): read it and send the request again"
        )


def _sync_directory(directory: Path) -> None:
    """Sync a directory so that a rename in it survives a power failure."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _holder(lock: IO[str]) -> str:
    lock.seek(0)
    return lock.read(200).strip() or "unknown"


def _repeated_keys(node: yaml.Node | None) -> Iterator[str]:
    """Yield repeated keys of mappings, which YAML parsers accept silently."""
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
