"""Adding up what each of many models needs with all that it depends on, in one walk however they hang together. Pure.

Models that depend on one another need the same: they are one group (a strongly connected component), and between groups
there are no circles any more. A group with one dependency needs what that one needs, and itself; only where several
meet, what they share must be counted once.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

Graph = Mapping[str, Sequence[str]]
"""By id, the ids that each depends on; ids that are missing here count for nothing."""


def totals(graph: Graph, sizes: Mapping[str, int | None]) -> dict[str, int | None]:
    """Return the bytes of each with all that it depends on, each once; None where the size of one is not known.

    Linear in a chain or a circle, and where few dependencies are shared; at worst it looks at all below each.
    """
    found: dict[str, int | None] = {}
    number_of: dict[str, int] = {}
    needs_of: list[set[int]] = []
    own_of: list[int | None] = []
    total_of: list[int | None] = []
    below: set[int] | None = None
    """All that the group before needs, itself included; None where nobody has counted that."""
    for number, group in enumerate(groups(graph)):
        number_of |= dict.fromkeys(group, number)
        needs = {number_of[each] for one in group for each in graph[one] if each in graph} - {number}
        needs_of.append(needs)
        own_of.append(_sum(sizes[one] for one in group))
        known = below if number - 1 in needs else None
        if len(needs) > 1:
            below = set() if known is None else known
            counted = [] if known is None else [total_of[number - 1]]
            total = _sum((own_of[number], *counted, *(own_of[each] for each in _walk(needs_of, needs, below))))
        else:
            below = known if needs else set()
            total = _sum((own_of[number], *(total_of[each] for each in needs)))
        if below is not None:
            below.add(number)
        total_of.append(total)
        found |= dict.fromkeys(group, total)
    return found


def _sum(sizes: Iterable[int | None]) -> int | None:
    known = list(sizes)
    return None if None in known else sum(each or 0 for each in known)


def _walk(needs_of: Sequence[set[int]], start: Iterable[int], seen: set[int]) -> Iterator[int]:
    """Go through all that can be reached and was not seen, and note it as seen."""
    ask = list(start)
    while ask:
        number = ask.pop()
        if number not in seen:
            seen.add(number)
            yield number
            ask += needs_of[number]


def groups(graph: Graph) -> Iterator[list[str]]:
    """Yield those that depend on one another together, and after all that they depend on.

    Without recursion: a chain of thousands is deeper than Python's stack.
    Source: R. Tarjan, "Depth-first search and linear graph algorithms", 1972.
    """
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    path: list[str] = []
    on_path: set[str] = set()
    for root in graph:
        work = [(root, iter(graph[root]))] if root not in index else []
        while work:
            one, rest = work[-1]
            if one not in index:
                index[one] = low[one] = len(index)
                path.append(one)
                on_path.add(one)
            for each in rest:
                if each in graph and each not in index:
                    work.append((each, iter(graph[each])))
                    break
                if each in on_path:
                    low[one] = min(low[one], index[each])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[one])
                if low[one] == index[one]:
                    group = _popped(path, one)
                    on_path.difference_update(group)
                    yield group


def _popped(path: list[str], until: str) -> list[str]:
    group: list[str] = []
    while not group or group[-1] != until:
        group.append(path.pop())
    return group
