"""Closes Ray's token to other users; `make run` also makes its directory.

Ray writes the token to `~/.ray/auth_token` with the rights of other files: where home directories
are open, any user of the machine could run code as this one.
"""

import os
from contextlib import suppress
from pathlib import Path


def close_token(home: Path | None = None, *, make: bool = False) -> None:
    """Let nobody but this user enter the directory of Ray's token.

    Args:
        home: of the user; None for that of the environment.
        make: make the directory where Ray has not yet.
    """
    with suppress(OSError, RuntimeError):  # no home, or one of another user: Ray will say so
        directory = (home or Path.home()) / ".ray"
        if make:
            directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.stat()
        if found.st_uid == os.geteuid() and found.st_mode & 0o077:
            directory.chmod(0o700)
