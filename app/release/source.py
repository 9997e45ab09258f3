"""Where a version to be deployed comes from, and whether it may be.

Invariant: a checkpoint that leaves this module was loaded here as a replica would load it.
"""

from pathlib import Path

from app.card import read_card
from app.errors import CheckpointError
from app.release.edits import Placement
from app.settings import PROJECT_DIR, Settings

SHIPPED = "app/checkpoints"


def placement_of(version: str, checkpoint: str | None, device: str | None, settings: Settings) -> Placement:
    """Find a version's checkpoint and check it.

    Args:
        version: as its card has it.
        checkpoint: its directory, relative to the project; None looks among the shipped and the registered ones.
        device: for its replicas; None for that of the version that is copied.
        settings: where the cache is.

    Raises:
        CheckpointError: it is not there, is not what its card says, or holds another version.
    """
    given = checkpoint or f"{SHIPPED}/{version}"
    check_checkpoint(PROJECT_DIR / given, version)
    return Placement(version, given, device)


def check_checkpoint(directory: Path, version: str) -> None:
    """Load a checkpoint as a replica does.

    Raises:
        CheckpointError: it can't be loaded, or holds another version.
    """
    card = read_card(directory)
    if card.version != version:
        raise CheckpointError(
            f"expected version {version} in '{directory}', found version {card.version}: name the right directory or version"
        )
    # torch takes seconds to import, and the other commands do not need it
    from app.checkpoint import load

    load(directory)
