"""Regular languages of strings, as deterministic automata over ranges of code points."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import pairwise

from edge_mtp.errors import EdgeMtpError
from edge_mtp.formats.schema.characters import ALL, Ranges

MOST_STATES = 6000
_MINIMIZED = 1500  # states; larger automata are not minimized

Edges = tuple[tuple[int, int, int], ...]  # first and last code point, next state; sorted, without overlap


class TooLargeError(EdgeMtpError):
    """An automaton of more than `MOST_STATES` states."""

    def __init__(self) -> None:
        super().__init__(f"needs more than {MOST_STATES} states; make it shorter")


class Language:
    """An automaton that starts in state 0. Every state leads to an accepting one, except in the empty language."""

    def __init__(self, edges: Sequence[Edges], accepting: Iterable[int]) -> None:
        self.edges, self.accepting = _trimmed(edges, frozenset(accepting))
        if 1 < len(self.edges) <= _MINIMIZED:
            self.edges, self.accepting = _minimized(self.edges, self.accepting)

    # -- contents

    @property
    def empty(self) -> bool:
        return not self.accepting

    def __contains__(self, text: str) -> bool:
        state = 0
        for character in text:
            code = ord(character)
            following = next((to for low, high, to in self.edges[state] if low <= code <= high), None)
            if following is None:
                return False
            state = following
        return state in self.accepting

    def shortest(self) -> str:
        """A shortest word, with letters where possible."""
        reached = {0: ""}
        queue = deque([0])
        while queue:
            state = queue.popleft()
            if state in self.accepting:
                return reached[state]
            for low, high, to in self.edges[state]:
                if to not in reached:
                    reached[to] = reached[state] + chr(_plainest(low, high))
                    queue.append(to)
        raise EdgeMtpError("an empty language has no word")

    @cached_property
    def fewest(self) -> int:
        """The length of a shortest word."""
        return len(self.shortest())

    @cached_property
    def most(self) -> int | None:
        """The length of a longest word; None if there is no limit."""
        depth: dict[int, int] = {}
        open_states: set[int] = set()
        stack: list[tuple[int, bool]] = [(0, False)]
        while stack:
            state, left = stack.pop()
            if left:
                open_states.discard(state)
                depth[state] = max((1 + depth[to] for _, _, to in self.edges[state]), default=0)
            elif state not in depth:
                open_states.add(state)
                stack.append((state, True))
                for _, _, to in self.edges[state]:
                    if to in open_states:
                        return None
                    stack.append((to, False))
        return depth[0]

    # -- operations

    def __and__(self, other: Language) -> Language:
        return _product(self, other, lambda a, b: a and b, False, False)

    def __or__(self, other: Language) -> Language:
        return _product(self, other, lambda a, b: a or b, True, True)

    def __sub__(self, other: Language) -> Language:
        return _product(self, other, lambda a, b: a and not b, False, True)

    def __invert__(self) -> Language:
        return ANY - self


def _plainest(low: int, high: int) -> int:
    return next((ord(c) for c in "a0A_ " if low <= ord(c) <= high), low)


def _trimmed(edges: Sequence[Edges], accepting: frozenset[int]) -> tuple[list[Edges], frozenset[int]]:
    """Removes states that cannot be reached or that lead to no accepting state."""
    if len(edges) > MOST_STATES:
        raise TooLargeError
    before: list[list[int]] = [[] for _ in edges]
    reached = {0}
    queue = [0]
    while queue:
        state = queue.pop()
        for _, _, to in edges[state]:
            before[to].append(state)
            if to not in reached:
                reached.add(to)
                queue.append(to)
    alive = set(accepting & reached)
    queue = list(alive)
    while queue:
        for state in before[queue.pop()]:
            if state not in alive:
                alive.add(state)
                queue.append(state)
    if 0 not in alive:
        return [()], frozenset()
    number = {state: i for i, state in enumerate(sorted(alive))}
    return (
        [_joined((low, high, number[to]) for low, high, to in edges[s] if to in alive) for s in sorted(alive)],
        frozenset(number[state] for state in accepting & alive),
    )


def _joined(edges: Iterable[tuple[int, int, int]]) -> Edges:
    result: list[tuple[int, int, int]] = []
    for low, high, to in sorted(edges):
        if result and result[-1][2] == to and result[-1][1] + 1 == low:
            result[-1] = (result[-1][0], high, to)
        else:
            result.append((low, high, to))
    return tuple(result)


def _minimized(edges: Sequence[Edges], accepting: frozenset[int]) -> tuple[list[Edges], frozenset[int]]:
    block = [int(state in accepting) for state in range(len(edges))]
    count = len(set(block))
    while True:
        kinds: dict[tuple[int, Edges], int] = {}
        new = []
        for state, leaving in enumerate(edges):
            key = (block[state], _joined((low, high, block[to]) for low, high, to in leaving))
            new.append(kinds.setdefault(key, len(kinds)))
        block = new  # state 0 comes first, so its block is 0
        if len(kinds) == count:
            break
        count = len(kinds)
    result: list[Edges] = [()] * count
    for state, leaving in enumerate(edges):
        result[block[state]] = _joined((low, high, block[to]) for low, high, to in leaving)
    return result, frozenset(block[state] for state in accepting)


def _product(
    a: Language, b: Language, accepts: Callable[[bool, bool], bool], without_a: bool, without_b: bool
) -> Language:
    """Runs both automata at once. `without_a` continues where `a` has no edge; `without_b` likewise."""
    number: dict[tuple[int, int], int] = {(0, 0): 0}
    queue = deque([(0, 0)])
    edges: list[Edges] = []
    accepting = []
    while queue:
        p, q = queue.popleft()
        if accepts(p in a.accepting, q in b.accepting):
            accepting.append(number[p, q])
        leaving = []
        for low, high, p_to, q_to in _merged(a.edges[p] if p >= 0 else (), b.edges[q] if q >= 0 else ()):
            if (p_to < 0 and not without_a) or (q_to < 0 and not without_b):
                continue
            pair = (p_to, q_to)
            if pair not in number:
                if len(number) >= MOST_STATES:
                    raise TooLargeError
                number[pair] = len(number)
                queue.append(pair)
            leaving.append((low, high, number[pair]))
        edges.append(tuple(leaving))
    return Language(edges, accepting)


def _merged(a: Edges, b: Edges) -> Iterable[tuple[int, int, int, int]]:
    """The ranges in which both lists of edges are constant, with the next states; -1 where a list has no edge."""
    cuts = sorted({edge[0] for edge in (*a, *b)} | {edge[1] + 1 for edge in (*a, *b)})
    i = j = 0
    for low, after in pairwise(cuts):
        while i < len(a) and a[i][1] < low:
            i += 1
        while j < len(b) and b[j][1] < low:
            j += 1
        p = a[i][2] if i < len(a) and a[i][0] <= low else -1
        q = b[j][2] if j < len(b) and b[j][0] <= low else -1
        if p >= 0 or q >= 0:
            yield low, after - 1, p, q


# -- simple languages -----------------------------------------------------------------------------------------------


def _to(ranges: Ranges, state: int) -> Edges:
    return tuple((low, high, state) for low, high in ranges)


ANY = Language([_to(ALL, 0)], [0])
NOTHING = Language([()], [])


def words(texts: Iterable[str]) -> Language:
    """Exactly these words. A word with a lone surrogate is left out, since that is no character."""
    edges: list[dict[int, int]] = [{}]
    accepting = []
    for text in texts:
        if any(0xD800 <= ord(c) < 0xE000 for c in text):
            continue
        state = 0
        for character in text:
            if ord(character) not in edges[state]:
                edges.append({})
                edges[state][ord(character)] = len(edges) - 1
            state = edges[state][ord(character)]
        accepting.append(state)
    return Language([tuple((c, c, to) for c, to in sorted(e.items())) for e in edges], accepting)


def lengths(low: int, high: int | None) -> Language:
    """Texts of `low` to `high` characters."""
    last = low if high is None else high
    if last >= MOST_STATES:
        raise TooLargeError
    edges = [_to(ALL, i + 1) for i in range(last)]
    return Language([*edges, _to(ALL, last) if high is None else ()], range(low, last + 1))
