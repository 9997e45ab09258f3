"""`Fleet`: the labelled windows of all designs of a training, one `Windows` for each design.

Designs differ in sensors, bins and steps, so each has shards of its own. Invariant: each design is
there once, in the order of names; where windows are chosen, there is one array for each design.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from app.core.errors import InputError
from train.data.labels import Integers
from train.data.windows import Windows

Chosen = Sequence[Integers]
"""Positions of windows, one array for each design of a fleet."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Labelled windows of machines of one or several designs; cheap to pickle.

    Args:
        designs: windows of each design.
    """

    designs: tuple[Windows, ...]

    def __len__(self) -> int:
        """Return the number of windows of all designs."""
        return sum(map(len, self.designs))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the designs."""
        return tuple(windows.equipment.design for windows in self.designs)

    @property
    def name(self) -> str:
        """Names of the designs as one word, for directories and experiments."""
        return "+".join(self.names)

    @property
    def machines(self) -> tuple[str, ...]:
        """Ids of all machines."""
        return tuple(machine for windows in self.designs for machine in windows.machines)

    def with_windows(self, *chosen: Chosen) -> tuple["Fleet", list[list[Integers]]]:
        """Leave out the designs of which the first choice has no window.

        Args:
            *chosen: choices of windows.

        Returns:
            The other designs, and the choices of their windows.
        """
        kept = [number for number, chosen_W in enumerate(chosen[0]) if len(chosen_W)]
        return Fleet(tuple(self.designs[number] for number in kept)), [
            [each[number] for number in kept] for each in chosen
        ]


def share_batch(counts: Sequence[int], batch: int, power: float, least: int) -> list[int]:
    """Divide a batch among designs.

    Args:
        counts: training windows of each design.
        batch: windows of a step.
        power: exponent of the counts, see `TrainConfig.design_power`.
        least: fewest windows of a design in a step, one for each worker and part.

    Returns:
        Windows of each design in a step, with the sum `batch`.

    Raises:
        InputError: the batch is too small for so many designs.
    """
    if batch < least * len(counts):
        raise InputError(
            f"expected a batch of at least {least * len(counts)} windows, one of each of "
            f"{len(counts)} designs for each worker and part, found {batch}: give a larger --batch "
            "or fewer --workers",
            "batch",
        )
    weights = [count**power for count in counts]
    rest = batch - least * len(counts)
    exact = [rest * weight / sum(weights) for weight in weights]
    shares = [least + int(each) for each in exact]
    by_remainder = sorted(range(len(counts)), key=lambda n: (int(exact[n]) - exact[n], n))
    for number in by_remainder[: batch - sum(shares)]:
        shares[number] += 1
    return shares
