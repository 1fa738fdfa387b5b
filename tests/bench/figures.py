"""What benchmarks make of the seconds they have measured."""

import time
from collections.abc import Callable, Sequence
from statistics import median


def timed(count: int, what: Callable[[int], object]) -> list[float]:
    """Do something so many times; returns the seconds of each."""
    took = []
    for k in range(count):
        began = time.perf_counter()
        what(k)
        took.append(time.perf_counter() - began)
    return took


def p99(values: Sequence[float]) -> float:
    """Return what one in a hundred reaches or passes."""
    return sorted(values)[max(0, round(len(values) * 0.99) - 1)]


def spread(seconds: Sequence[float]) -> list[str]:
    """Write the median and the 99th percentile in milliseconds."""
    return [f"{1000 * median(seconds):.1f}", f"{1000 * p99(seconds):.1f}"]


def row(*cells: object) -> None:
    """Print a row of a table in Markdown, at once."""
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def head(*columns: str) -> None:
    """Print the head of such a table."""
    row(*columns)
    print("|" + "---|" * len(columns))
