"""Repeats a change of the configuration while what holds it is busy, half saved, or away.

A write that was sent may have taken effect although its answer was lost. The next attempt has to
know that: it would otherwise take this command's own weights for those of somebody else.
Invariant: what a command decides from the history or the weights is decided once a write was sent.
"""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay

from app.core.errors import ReleaseConflict, ReleasesUnavailable, SettingsError
from app.release.config.file import ReadConfig
from app.release.config.weights import Split, format_split
from app.release.target import ServeTarget


class WeightsChanged(ReleaseConflict):
    """Another command or person changed the weights.

    Args:
        found: The weights, which stay.
        name: Of what holds them.
    """

    def __init__(self, found: Split, name: str) -> None:
        super().__init__(
            f"expected the weights of this command in '{name}', found {format_split(found)}: "
            "somebody changed them, and they stay"
        )


class Sent(NamedTuple):
    """A write that may have taken effect: the content from before, the new text, its weights."""

    before: ReadConfig
    text: str
    split: Split


class Attempts:
    """The attempts of one command.

    Attributes:
        warmed_up: The versions that answered in an earlier attempt.
        sent: The last write without an answer, or None.
    """

    def __init__(self, serve: ServeTarget) -> None:
        self._serve = serve
        self.warmed_up: set[str] = set()
        self.sent: Sent | None = None

    async def run(self, once: Callable[[], Awaitable[None]]) -> None:
        """Repeat while another command works, a person saves the file, or its holder is away.

        Raises:
            HydraulicDiagnosticsError: That of the last attempt.
        """
        retrying = AsyncRetrying(
            retry=retry_if_exception(_may_pass),
            stop=stop_after_delay(self._serve.in_force_s),
            wait=self._serve.retry_wait,
            reraise=True,
        )
        try:
            await retrying(once)
        except ReleasesUnavailable as error:
            if self.sent is None:
                raise
            raise ReleasesUnavailable(
                f"{error.message}; the change may have been written: look at `hydraulic release "
                "status` before you repeat the command"
            ) from error

    def checked(self, before: ReadConfig, name: str) -> Split | None:
        """Return the weights that an earlier attempt sent, None if none was sent.

        Args:
            before: What is stored now.
            name: Of what holds it.

        Raises:
            WeightsChanged: It has neither these weights nor those from before.
        """
        if self.sent is None:
            return None
        own = (self.sent.before.split.above_zero(), self.sent.split.above_zero())
        if before.split.above_zero() not in own:
            raise WeightsChanged(before.split, name)
        return self.sent.split


def _may_pass(error: BaseException) -> bool:
    passing = isinstance(error, ReleaseConflict | SettingsError | ReleasesUnavailable)
    return passing and not isinstance(error, WeightsChanged)
