"""Split the windows of a fleet: each design by `train.data.split`, and the parts design by design.

Invariant: where a design has fewer parts than others, the further parts train on all its windows
and hold out none of them, so each window is held out at most once.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from app.core.errors import InputError
from train.config import AUTO, TrainConfig
from train.data.fleet import Chosen, Fleet
from train.data.labels import Integers
from train.data.split import Part, choose_split, graded_components, set_apart, split, whole
from train.data.windows import Windows

LEAVE_DESIGN = "leave-design"


class FleetPart(NamedTuple):
    """Windows of one fit: a part for each design of the fleet."""

    name: str
    designs: tuple[Part, ...]

    @property
    def train(self) -> list[Integers]:
        """Training windows of each design."""
        return [part.train_W for part in self.designs]


def choose_splits(fleet: Fleet, config: TrainConfig) -> tuple[TrainConfig, tuple[str, ...]]:
    """Decide an `auto` split; see `train.data.split.choose_split`.

    Returns:
        The settings with the decided split, `auto` where designs differ in it, and the reasons.
    """
    chosen = [choose_split(windows, config) for windows in fleet.designs]
    kinds = {each.split for each, _ in chosen}
    if len(fleet.designs) == 1:
        reasons = tuple(reason for _, reason in chosen if reason)
    else:
        reasons = tuple(
            f"Design {name}: {reason}"
            for name, (_, reason) in zip(fleet.names, chosen, strict=True)
            if reason
        )
    return config.model_copy(update={"split": kinds.pop() if len(kinds) == 1 else AUTO}), reasons


def split_fleet(fleet: Fleet, config: TrainConfig) -> list[FleetPart]:
    """Split the windows of each design into training and holdout.

    - `leave-design:D`: one part that holds out all windows of design D.
    - `leave-level:C` and `leave-block:C+D`: of the designs that have these components; the others
      are trained on as a whole.
    - all others: of each design. The first parts of all designs make the first part, and so on.

    Raises:
        InputError: a design can't be split so; see `train.data.split.split`.
    """
    kind, _, named = config.split.partition(":")
    if kind == LEAVE_DESIGN:
        return [_without_design(fleet, named, config)]
    components = set(named.split("+")) if named else set()
    divided = [components <= graded_components(windows).keys() for windows in fleet.designs]
    if not any(divided):
        divided[0] = True  # its error names what is known
    by_design = [
        _parts_of(windows, config, is_alone=len(divided) == 1) if has else []
        for windows, has in zip(fleet.designs, divided, strict=True)
    ]
    return [
        _joined(fleet, [parts[number : number + 1] for parts in by_design], config)
        for number in range(max(map(len, by_design)))
    ]


def whole_fleet(fleet: Fleet, config: TrainConfig) -> FleetPart:
    """Return the part without a holdout."""
    return FleetPart("all", tuple(whole(windows, config) for windows in fleet.designs))


def set_apart_in(
    fleet: Fleet, train: Chosen, share: float, seed: int
) -> tuple[list[Integers], list[Integers]]:
    """Divide training windows into training and validation; see `train.data.split.set_apart`.

    Designs with a single group are divided by time where no design has two groups; elsewhere they
    have no validation windows.

    Raises:
        InputError: a history that is divided by time is too short.
    """
    given = list(zip(fleet.designs, train, strict=True))
    groups = [len(np.unique(windows.group_W[train_W])) for windows, train_W in given]
    least = 2 if max(groups, default=0) > 1 else 1
    pairs = [
        set_apart(windows, train_W, share, seed)
        if count >= least
        else (np.sort(train_W), np.empty(0, np.int64))
        for (windows, train_W), count in zip(given, groups, strict=True)
    ]
    return [train_W for train_W, _ in pairs], [validation_W for _, validation_W in pairs]


def _parts_of(windows: Windows, config: TrainConfig, *, is_alone: bool) -> list[Part]:
    try:
        return split(windows, config)
    except InputError as error:
        if is_alone:
            raise
        message = f"design '{windows.equipment.design}': {error.message}"
        raise InputError(message, error.field) from error


def _joined(fleet: Fleet, found: Sequence[Sequence[Part]], config: TrainConfig) -> FleetPart:
    names = dict.fromkeys(part.name for parts in found for part in parts)
    return FleetPart(
        ", ".join(names),
        tuple(
            parts[0] if parts else whole(windows, config)
            for windows, parts in zip(fleet.designs, found, strict=True)
        ),
    )


def _without_design(fleet: Fleet, named: str, config: TrainConfig) -> FleetPart:
    if named not in fleet.names or len(fleet.designs) < 2:
        raise InputError(
            f"expected a split that leaves out one of at least two designs of the training, found "
            f"'{named}' among {', '.join(fleet.names)}: correct the split, or train on further "
            "designs",
            "split",
        )
    return FleetPart(
        named,
        tuple(
            Part(named, np.empty(0, np.int64), np.arange(len(windows)))
            if windows.equipment.design == named
            else whole(windows, config)
            for windows in fleet.designs
        ),
    )
