"""A fit's state between two epochs as files: tensors as safetensors, all else as JSON beside them; nothing pickled.

Everything that is drawn in an epoch follows from the seed, the epoch and the worker's rank, so the
number of the epoch is the whole state
of the random generators.
Invariant: a directory that `read_state` accepts is one that `write_state` finished.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from app.checkpoint.manifest import sha256_of
from app.core.errors import CheckpointError
from train.fitting.progress import EpochRecord

TENSORS = "state.safetensors"
STATE = "state.json"


class FitState(BaseModel):
    """Where a fit is after an epoch; `digest` is of what it was started with, `sha256` of the tensors' file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str
    history: tuple[EpochRecord, ...]
    steps: int
    """Steps of the optimizer so far, over all epochs."""
    done: bool
    """Whether the fit is complete: all epochs, or stopped by its validation."""
    scale: float = 1.0
    """What fp16 multiplies the loss by."""
    scale_age: int = 0
    """Steps since that factor was changed."""
    sha256: str = ""

    @property
    def epoch(self) -> int:
        """Return how many epochs are behind."""
        return len(self.history)

    @property
    def merit(self) -> float:
        """Return what states are compared by: the validation's score, or the number of epochs where there is none."""
        score = self.history[-1].score if self.history else None
        return float(self.epoch) if score is None else score


@dataclass(frozen=True, slots=True)
class Saved:
    """A state with its tensors, by the names that the learner gave them."""

    state: FitState
    tensors: Mapping[str, Tensor]


def write_state(directory: Path, state: FitState, tensors: Mapping[str, Tensor]) -> None:
    """Write a state to a directory, the JSON last."""
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    (directory / TENSORS).write_bytes(save_tensors(content))
    whole = state.model_copy(update={"sha256": sha256_of(directory / TENSORS)})
    (directory / STATE).write_text(whole.model_dump_json(), encoding="utf-8")


def read_state(directory: Path) -> Saved:
    """Read a state.

    Raises:
        CheckpointError: a file is missing, or is not what was written.
    """
    try:
        state = FitState.model_validate_json((directory / STATE).read_bytes())
        if sha256_of(directory / TENSORS) != state.sha256:
            raise CheckpointError(
                f"'{directory / TENSORS}' is not the file that was written: start the fit anew"
            )
        return Saved(state, load_tensors((directory / TENSORS).read_bytes()))
    except (OSError, ValidationError, SafetensorError) as error:
        raise CheckpointError(f"'{directory}' holds no state of a fit: {error}") from error


def newest_state(parent: Path) -> Path | None:
    """Return the directory under a parent whose state is whole and has the most epochs; None when there is none."""
    found = _states(parent)
    return max(found, key=lambda path: found[path].epoch, default=None)


def best_state(parent: Path) -> Path | None:
    """Return the directory under a parent whose state is whole and has the most merit, of equals the newest; None when there is none."""
    found = _states(parent)
    return max(found, key=lambda path: (found[path].merit, found[path].epoch), default=None)


def _states(parent: Path) -> dict[Path, FitState]:
    found: dict[Path, FitState] = {}
    for path in parent.glob(f"*/{STATE}"):
        try:
            found[path.parent] = read_state(path.parent).state
        except CheckpointError:
            continue  # cut off by a kill while it was written
    return found
