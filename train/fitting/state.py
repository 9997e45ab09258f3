"""Saves the state of a fit between two epochs: tensors as safetensors, the rest as JSON.

Nothing is pickled. All random numbers of an epoch follow from the seed, the epoch and the worker's
rank, so no generator has a state. Invariant: `read_state` accepts only what `write_state` finished.
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
    """State after an epoch; `digest` identifies the fit, `sha256` the tensors' file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str
    history: tuple[EpochRecord, ...]
    steps: int
    """Optimizer steps so far, over all epochs."""
    done: bool
    """Whether the fit is complete: all epochs, or stopped early."""
    scale: float = 1.0
    """Loss scale of fp16."""
    scale_age: int = 0
    """Steps since the last change of the loss scale."""
    sha256: str = ""

    @property
    def epoch(self) -> int:
        """Return the number of finished epochs."""
        return len(self.history)

    @property
    def validation_score(self) -> float:
        """Return the validation score of the last epoch, or the number of epochs without one."""
        score = self.history[-1].score if self.history else None
        return float(self.epoch) if score is None else score


@dataclass(frozen=True, slots=True)
class Saved:
    """A state with its tensors, by the names of `Learner.state`."""

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
        CheckpointError: a file is missing or was changed.
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
    """Return the directory under a parent with the complete state of most epochs, if any."""
    found = _states(parent)
    return max(found, key=lambda path: found[path].epoch, default=None)


def best_state(parent: Path) -> Path | None:
    """Return the directory with the complete state of the best validation score, if any.

    Of equal ones it is the newest.
    """
    found = _states(parent)
    return max(
        found, key=lambda path: (found[path].validation_score, found[path].epoch), default=None
    )


def _states(parent: Path) -> dict[Path, FitState]:
    found: dict[Path, FitState] = {}
    for path in parent.glob(f"*/{STATE}"):
        try:
            found[path.parent] = read_state(path.parent).state
        except CheckpointError:
            continue  # cut off by a kill while it was written
    return found
