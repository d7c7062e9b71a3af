"""Whole groups into parts, so that every class has the share asked for in every part: the arithmetic of a split.

Greedy, then the best single moves. The cost is chi-square in units of shares: the sum over classes and parts of
(share had - share wanted)**2 / share wanted, so that a rare class counts as much as a common one and a small part is
not filled by one large group. A class that a part lacks altogether costs more than any unevenness.
"""

import numpy as np
from numpy.typing import NDArray

_MISSING_COST = 1e3
_TRIES = 8
_MOST_MOVES = 200


def allocate(
    counts: NDArray[np.int64], *, locked: NDArray[np.int64], shares: NDArray[np.float64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """The part of each group; deterministic by the generator's state.

    Args:
        counts: Photos by group and class, shape [groups, classes].
        locked: Photos by class that stay in part 0 whatever happens, shape [classes].
        shares: Wanted share of each part, positive, of sum 1, shape [parts].
        generator: Shuffles groups of about the same size, so that another seed gives another split.

    Returns:
        Part index by group, shape [groups]. A class may be missing in a part where the groups allow nothing better.
    """
    best = _Allocation(counts, locked, shares)
    for attempt in range(_TRIES):
        allocation = best if attempt == 0 else _Allocation(counts, locked, shares)
        allocation.fill(generator)
        allocation.improve()
        if allocation.missing() < best.missing():
            best = allocation
        if best.missing() == 0:
            break
    return best.part


class _Allocation:
    def __init__(self, counts: NDArray[np.int64], locked: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
        totals = np.maximum(counts.sum(axis=0) + locked, 1)
        self.part = np.full(len(counts), -1)
        self._counts = counts
        self._group_shares = counts / totals
        self._squares = (self._group_shares**2).sum(axis=1)
        self._wanted = shares
        self._had = np.zeros((len(shares), counts.shape[1]), np.int64)
        self._had[0] = locked
        self._totals = totals

    def missing(self) -> int:
        """How many (part, class) pairs have no photo."""
        return int(np.count_nonzero(self._had == 0))

    def fill(self, generator: np.random.Generator) -> None:
        """Largest groups first, each to the part where it makes shares least uneven."""
        # Sizes in powers of two: groups of about the same size change places with the seed.
        magnitude = np.floor(np.log2(self._counts.sum(axis=1)))
        shuffled = generator.permutation(len(self._counts))
        for group in shuffled[np.argsort(-magnitude[shuffled], kind="stable")]:
            self._move(int(group), int(np.argmin(self._costs_of_adding(slice(group, group + 1)))))

    def improve(self) -> None:
        """Moves single groups while that lowers the cost; what `fill` left missing is found here, by small groups."""
        groups = np.arange(len(self._counts))
        present = (self._counts > 0).astype(np.float64)
        for _ in range(_MOST_MOVES):
            filled = present @ (self._had == 0).T
            emptied = ((self._counts > 0) & (self._counts == self._had[self.part])).sum(axis=1)
            gain = self._gains_of_removing()[:, None] - self._costs_of_adding(slice(None))
            gain += _MISSING_COST * (filled - emptied[:, None])
            gain[groups, self.part] = 0
            group, part = np.unravel_index(int(np.argmax(gain)), gain.shape)
            if gain[group, part] < 1e-9:
                return
            self._move(int(group), int(part))

    def _costs_of_adding(self, groups: slice) -> NDArray[np.float64]:
        """Unevenness that each group would add to each part, shape [groups, parts]."""
        excess = self._had / self._totals - self._wanted[:, None]
        uneven: NDArray[np.float64] = self._squares[groups, None] + 2 * self._group_shares[groups] @ excess.T
        return uneven / self._wanted

    def _gains_of_removing(self) -> NDArray[np.float64]:
        """Unevenness that each group adds to the part that it is in, shape [groups]."""
        excess = (self._had / self._totals - self._wanted[:, None])[self.part]
        uneven = 2 * (self._group_shares * excess).sum(axis=1) - self._squares
        gain: NDArray[np.float64] = uneven / self._wanted[self.part]
        return gain

    def _move(self, group: int, part: int) -> None:
        if self.part[group] >= 0:
            self._had[self.part[group]] -= self._counts[group]
        self._had[part] += self._counts[group]
        self.part[group] = part
