"""A list that stays sorted, for indexes of any length: adding, removing and looking cost about the same at any size."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from itertools import chain
from typing import Any, Generic, TypeVar

Key = TypeVar("Key", bound=tuple[Any, ...])

_BLOCK = 1024


class Ordered(Generic[Key]):
    """Keys in ascending order, each once. Must not change while it is iterated over."""

    def __init__(self) -> None:
        self._blocks: list[list[Key]] = []
        self._lasts: list[Key] = []
        """The greatest key of each block."""
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Key]:
        return chain.from_iterable(self._blocks)

    def __reversed__(self) -> Iterator[Key]:
        return chain.from_iterable(map(reversed, reversed(self._blocks)))

    def first(self) -> Key | None:
        """Return the least key, or None."""
        return self._blocks[0][0] if self._blocks else None

    def below(self, bound: Key) -> Iterator[Key]:
        """Yield the keys less than `bound`, in descending order."""
        number = bisect_left(self._lasts, bound)
        if number < len(self._blocks):
            block = self._blocks[number]
            yield from reversed(block[: bisect_left(block, bound)])
        yield from chain.from_iterable(map(reversed, reversed(self._blocks[:number])))

    def add(self, key: Key) -> None:
        """Put a key in that is not there."""
        self._length += 1
        if not self._blocks:
            self._blocks.append([key])
            self._lasts.append(key)
            return
        number = min(bisect_left(self._lasts, key), len(self._blocks) - 1)
        block = self._blocks[number]
        insort(block, key)
        self._lasts[number] = block[-1]
        if len(block) > 2 * _BLOCK:
            # Most keys come in ascending order: a full block is left behind as it is, and the next one begins small.
            self._blocks.insert(number + 1, block[_BLOCK:])
            del block[_BLOCK:]
            self._lasts[number] = block[-1]
            self._lasts.insert(number + 1, self._blocks[number + 1][-1])

    def remove(self, key: Key) -> None:
        """Take a key out that is there."""
        number = bisect_left(self._lasts, key)
        block = self._blocks[number]
        place = bisect_left(block, key)
        if block[place] != key:
            raise KeyError(key)
        del block[place]
        self._length -= 1
        if not block:
            del self._blocks[number], self._lasts[number]
        else:
            self._lasts[number] = block[-1]
