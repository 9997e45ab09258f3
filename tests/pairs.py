"""Parts of pairs of answers, to test verdicts on growing data."""

from dataclasses import fields, replace
from typing import Any

import numpy as np

from app.experiments.pairs import Integers, Pairs


def only(pairs: Pairs, chosen_P: Integers) -> Pairs:
    """Select pairs by positions; the first axis of some arrays is the version."""
    parts: dict[str, Any] = {}
    for field in fields(pairs):
        values = getattr(pairs, field.name)
        if isinstance(values, np.ndarray):
            parts[field.name] = values[chosen_P] if values.ndim == 1 else values[:, chosen_P]
    return replace(pairs, **parts)
