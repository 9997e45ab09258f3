"""Saves the state of a fit between two epochs: tensors as safetensors, the rest as JSON.

Nothing that is written is pickled. All random numbers of an epoch follow from the seed, the epoch
and the worker's rank, so no generator has a state. Invariant: `read_state` accepts only what
`write_state` finished.
"""

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from app.core.errors import CheckpointError, StoreUnavailable
from app.core.shared_storage import StoragePath
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
    saved = save_tensors(content)
    (directory / TENSORS).write_bytes(saved)
    whole = state.model_copy(update={"sha256": hashlib.sha256(saved).hexdigest()})
    (directory / STATE).write_text(whole.model_dump_json(), encoding="utf-8")


def read_state(directory: StoragePath) -> Saved:
    """Read a state.

    Raises:
        CheckpointError: a file is missing or was changed.
        StoreUnavailable: a file can't be read.
    """
    try:
        state = FitState.model_validate_json((directory / STATE).read_bytes())
        tensors = (directory / TENSORS).read_bytes()
        if hashlib.sha256(tensors).hexdigest() != state.sha256:
            raise CheckpointError(
                f"'{directory / TENSORS}' is not the file that was written: start the fit anew"
            )
        return Saved(state, load_tensors(tensors))
    except (FileNotFoundError, ValidationError, SafetensorError) as error:
        raise CheckpointError(f"'{directory}' holds no state of a fit: {error}") from error
    except OSError as error:
        # shared storage that does not answer is no state that was cut off: nothing is begun anew
        raise StoreUnavailable(
            f"expected to read '{directory}', found {type(error).__name__}: {error}; run the same "
            "command again when it can be read"
        ) from error


def states(parent: StoragePath) -> list[Saved]:
    """Return the complete states under a directory; a kill may cut one off while it is written."""
    found = []
    for path in parent.glob(f"*/{STATE}"):
        with suppress(CheckpointError):
            found.append(read_state(path.parent))
    return found


def newest_of(saved: Iterable[Saved]) -> Saved | None:
    """Return the state of most epochs, if any."""
    return max(saved, key=lambda each: each.state.epoch, default=None)


def best_of(saved: Iterable[Saved]) -> Saved | None:
    """Return the state of the best validation score, if any; of equal ones the newest."""
    return max(
        saved, key=lambda each: (each.state.validation_score, each.state.epoch), default=None
    )
