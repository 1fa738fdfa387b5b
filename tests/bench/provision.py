"""Time to a verified file, against other download programs, on the same local nginx in the same run.

    make bench-provision          # or: python -m tests.bench.provision --gigabytes 2 --rounds 5

Two origins: one that gives each connection 40 MB/s, as content delivery networks do, and one without a limit. Every
program runs as a whole process; wall time, CPU seconds and peak memory are what the operating system accounts to it
and its children. `ours` includes starting Python, looking the model up, hashing, fsync and the receipt; `curl` and
`wget` only download; `aria2c`, `requests` and `huggingface_hub` are followed by `sha256sum`.

The limit that nothing can beat is the longer of the transfer (the fastest program that only downloads: one curl, or
sixteen that take a sixteenth each) and the hash on one core. Ratios are medians of the rounds' own ratios: what
disturbs this computer disturbs neighbours in time alike.
"""

import argparse
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.bench.provision_measure import Run, hash_seconds, measured
from tests.bench.provision_origin import CAP, catalogue, make_file, nginx
from tests.bench.provision_programs import ARIA2, CURL, OURS, PROGRAMS, WIDE, Task

NEEDED = ("nginx", "curl", "wget", "aria2c", "openssl", "sha256sum")
HASH = "one core's hash"
Results = Mapping[str, Sequence[Run]]
median = statistics.median


def main() -> None:
    """Run all programs in turn, round after round, and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help="programs whose name contains one of these words, separated by commas")
    given = parser.parse_args()
    if missing := [name for name in NEEDED if shutil.which(name) is None]:
        sys.exit(f"not installed: {', '.join(missing)}; on Debian: apt-get install nginx-light aria2 curl wget openssl")
    names = chosen(given.only)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        digest, size = make_file(folder / "www" / "model.bin", int(given.gigabytes * 1e9))
        with nginx(folder) as (free, capped):
            print(f"{size / 1e9:.2f} GB, {given.rounds} rounds, medians; {machine()}\n")
            for title, port in ((f"each connection limited to {CAP}B/s", capped), ("no limit", free)):
                url = f"http://127.0.0.1:{port}/model.bin"
                with catalogue(url, digest, size) as lookup_url:
                    task = Task(url, folder / "out" / "model.bin", digest, size, lookup_url)
                    results = rounds(task, names, given.rounds)
                    print(f"origin: {title}\n\n{table(task, results)}\n")
                    if {CURL, WIDE, ARIA2} <= set(results):
                        print("\n".join(goals(task, results)) + "\n", flush=True)


def chosen(words: str | None) -> list[str]:
    """Return the programs that are asked for; ours is always among them."""
    return [each for each in PROGRAMS if not words or each == OURS or any(word in each for word in words.split(","))]


def rounds(task: Task, names: Sequence[str], count: int) -> dict[str, list[Run]]:
    """Run the programs in turn: what disturbs this computer disturbs them all."""
    results: dict[str, list[Run]] = {name: [] for name in (*names, HASH)}
    for _ in range(count):
        for name in names:
            shutil.rmtree(task.target.parent, ignore_errors=True)
            task.target.parent.mkdir()
            results[name].append(measured(PROGRAMS[name](task)))
        seconds = hash_seconds(task.size)
        results[HASH].append(Run(seconds, seconds, 0.0))
    return results


def table(task: Task, results: Results) -> str:
    """Return one origin's table, in Markdown."""
    lines = ["| program | seconds | of ours | CPU s per GB | peak MB |", "| --- | --- | --- | --- | --- |"]
    for name, runs in results.items():
        seconds, cpu = median(run.seconds for run in runs), median(run.cpu for run in runs) / (task.size / 1e9)
        peak = max(run.peak_mb for run in runs)
        lines.append(f"| {name} | {seconds:.2f} | {ratio(runs, results[OURS]):.2f} | {cpu:.2f} | {peak:.0f} |")
    return "\n".join(lines)


def goals(task: Task, results: Results) -> list[str]:
    """Hold the results against what is promised."""
    ours = results[OURS]
    limits = [
        max(min(curl.seconds, curls.seconds), hashing.seconds)
        for curl, curls, hashing in zip(results[CURL], results[WIDE], results[HASH], strict=True)
    ]
    beyond = median(run.seconds / limit for run, limit in zip(ours, limits, strict=True))
    allowed = median(1.5 * curl.cpu + each.cpu for curl, each in zip(results[CURL], results[HASH], strict=True))
    cpu, gigabytes = median(run.cpu for run in ours), task.size / 1e9
    memory = max(run.peak_mb for run in ours)
    against_aria2, against_curl = ratio(results[ARIA2], ours), ratio(results[CURL], ours)
    return [
        goal(beyond <= 1.1, f"{beyond:.2f} of max(transfer, hash), at most 1.1"),
        goal(against_aria2 >= 1.4, f"{against_aria2:.2f} times as fast as {ARIA2}, at least 1.4"),
        goal(against_curl >= 1, f"{against_curl:.2f} times as fast as curl alone, at least 1"),
        goal(
            cpu <= allowed, f"{cpu / gigabytes:.2f} CPU s per GB, at most {allowed / gigabytes:.2f}: 1.5 curls, a hash"
        ),
        goal(memory < 100, f"{memory:.0f} MB of memory, under 100"),
    ]


def goal(reached: bool, words: str) -> str:
    """Say whether a promise is kept."""
    return f"{'reached' if reached else 'MISSED '}  {words}"


def ratio(runs: Sequence[Run], reference: Sequence[Run]) -> float:
    """Return the median of the rounds' ratios of seconds."""
    return median(one.seconds / other.seconds for one, other in zip(runs, reference, strict=True))


def machine() -> str:
    """Describe this computer."""
    day = time.strftime("%Y-%m-%d")
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {day}"


if __name__ == "__main__":
    main()
