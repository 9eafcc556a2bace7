"""What reordering did to a network: every channel group, in numbers or with the reason why it stayed as it is."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from pipelines.arrays import Array


class PermutedGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Magnitudes are what the search counted: the rows of `consumers` that the pattern keeps before and after.

    `bound` is what each row alone could keep. `permutation[i]` is the old channel at new position i. `left_out`:
    weights that read the channels too but could not be counted, and why; none of them makes the network lose.
    """

    name: str
    size: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]
    strategy: str
    before: float
    after: float
    bound: float
    efficacy: float
    permutation: tuple[int, ...]
    elapsed_s: float = 0.0


class UnpermutedGroup(msgspec.Struct, frozen=True, kw_only=True):
    """A group that stayed as it is, and why."""

    name: str
    size: int
    reason: str


class PermuteReport(msgspec.Struct, frozen=True, kw_only=True):
    """The network's totals are over all weights that follow the pattern, exact, as the masks will find them.

    Where importances were given (`weighted`), every magnitude is of |w| times them. `elapsed_s` is the searches' sum,
    `kernels` what ran them: "numpy", or the level of the compiled ones, which find the same sooner.
    """

    pattern: str
    strategy: str
    seed: int
    weighted: bool
    groups: tuple[PermutedGroup, ...]
    unpermuted: tuple[UnpermutedGroup, ...]
    magnitude: float
    retained_before: float
    retained_after: float
    bound: float
    kernels: str = ""
    elapsed_s: float = 0.0

    @property
    def permutations(self) -> dict[str, Array]:
        """Group name -> int64[size], as `apply_permutations` takes them."""
        return {group.name: np.array(group.permutation, np.int64) for group in self.groups}

    @property
    def efficacy(self) -> float:
        """Share of the magnitude between identity and the bound that reordering won; 1 where there is none."""
        loss = self.bound - self.retained_before
        return (self.retained_after - self.retained_before) / loss if loss > 0 else 1.0

    def record(self) -> dict[str, Any]:
        """For JSON: what was found, not how long it took and on what; decodes into a PermuteReport."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        del fields["kernels"]
        for one in (fields, *fields["groups"]):
            del one["elapsed_s"]
        return fields
