"""What models need with all that they depend on: as if looked up one by one, and not slower where thousands meet."""

import random

import pytest

from app.core.closures import Graph, totals

MANY = 3000
"""Deeper than Python's stack."""


class Watched(dict[str, list[str]]):
    """Dependencies that count how often they are looked at."""

    looks = 0

    def __getitem__(self, key: str) -> list[str]:
        self.looks += 1
        return super().__getitem__(key)


def one_by_one(graph: Graph, sizes: dict[str, int | None], model_id: str) -> int | None:
    """Walk through all that one model depends on."""
    found, ask = set[str](), [model_id]
    while ask:
        each = ask.pop()
        if each in graph and each not in found:
            found.add(each)
            ask += graph[each]
    known = [sizes[each] for each in found]
    return None if None in known else sum(size or 0 for size in known)


def test_it_is_the_same_as_walking_from_each() -> None:
    rng = random.Random(7)  # the same graphs each time
    for _ in range(400):
        ids = [str(number) for number in range(rng.randint(1, 9))]
        likely = rng.random() / 2
        graph = {each: [other for other in (*ids, "unknown") if rng.random() < likely] for each in ids}
        sizes = {each: None if rng.random() < 0.1 else rng.randint(0, 10**6) for each in ids}

        assert totals(graph, sizes) == {each: one_by_one(graph, sizes, each) for each in ids}


@pytest.mark.parametrize(
    ("graph", "first", "last"),
    [
        ({str(number): [str(number + 1)] for number in range(MANY)}, MANY, 1),
        ({str(number): [str((number + 1) % MANY)] for number in range(MANY)}, MANY, MANY),
        ({"vae": []} | {str(number): [str(number + 1), "vae"] for number in range(MANY)}, MANY + 1, 2),
    ],
    ids=["chain", "ring", "chain that shares one"],
)
def test_thousands_that_depend_on_one_another_are_looked_at_a_few_times_each(
    graph: dict[str, list[str]], first: int, last: int
) -> None:
    watched = Watched(graph)

    found = totals(watched, dict.fromkeys(graph, 1))

    assert (found["0"], found[str(MANY - 1)]) == (first, last)
    assert watched.looks <= 4 * len(graph)
