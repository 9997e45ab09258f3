"""A bounded memory of what is dear to make: the values asked for last, by key.

Invariant: what is kept has at most the given size together, but for a single value that is larger alone.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Values by key; the one not asked for longest goes first.

    Args:
        limit: most that all values may have together.
        size: of a value, in the unit of the limit.
    """

    def __init__(self, limit: int, size: Callable[[V], int]) -> None:
        self._limit = limit
        self._size = size
        self._kept: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._total = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: K, make: Callable[[], V]) -> V:
        """Return the value of a key, made now when it is not kept; an error of `make` is passed on and not kept."""
        known = self._kept.get(key)
        if known is not None:
            self._kept.move_to_end(key)
            return known[0]
        value = make()
        size = self._size(value)
        self._kept[key] = value, size
        self._total += size
        while self._total > self._limit and len(self._kept) > 1:
            self._total -= self._kept.popitem(last=False)[1][1]
        return value
