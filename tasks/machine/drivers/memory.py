"""Out of memory: telling it from other failures, and how much was needed and how much there was."""

import re
import resource
from pathlib import Path
from typing import Any

from tasks.machine.drivers.contract import OutOfMemory

CGROUP = Path("/sys/fs/cgroup")

UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}

ASKED = re.compile(r"[Tt]ried to allocate ([\d.]+) (bytes|KiB|MiB|GiB|TiB)")
"""torch's words: c10/cuda/CUDACachingAllocator.cpp ("Tried to allocate 2.00 GiB"), c10/core/impl/alloc_cpu.cpp ("you
tried to allocate 2147483648 bytes")."""

SIGNS = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")


def shortage(exc: BaseException, torch: Any, device: str) -> OutOfMemory | None:
    """Translate what torch and Python raise where memory runs out; None for every other failure."""
    if not is_shortage(exc):
        return None
    held, free = _of_cuda(torch) if device == "cuda" else _of_this_process()
    asked = asked_for(str(exc))
    # What failed has given some back before anybody could look: the peak has not.
    most = max(held, int(torch.cuda.max_memory_allocated())) if device == "cuda" else held
    return OutOfMemory(None if asked is None else most + asked, held + free)


def forget_peak(torch: Any, device: str) -> None:
    """Have `shortage` look at what is held from now on."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def is_shortage(exc: BaseException) -> bool:
    """Say whether memory ran out; torch's own error for it is a RuntimeError that says so."""
    return isinstance(exc, MemoryError) or (
        isinstance(exc, RuntimeError) and any(sign in str(exc).lower() for sign in SIGNS)
    )


def asked_for(words: str) -> int | None:
    """Read from torch's words how many bytes the failing allocation was for."""
    found = ASKED.search(words)
    return int(float(found[1]) * UNITS[found[2]]) if found else None


def free_of_cuda(torch: Any) -> int:
    """Return what torch's tensors could still get on the GPU, bytes."""
    return _of_cuda(torch)[1]


def free_of_computer() -> int:
    """Return what could still be had of the computer's memory, or of the container's part of it, bytes."""
    import psutil  # noqa: PLC0415  # for drawing workers only

    available = int(psutil.virtual_memory().available)
    try:
        # Linux, Documentation/admin-guide/cgroup-v2.rst, "Memory Interface Files".
        most = (CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((CGROUP / "memory.current").read_text(encoding="ascii"))
        cached = re.search(r"^inactive_file (\d+)$", (CGROUP / "memory.stat").read_text(encoding="ascii"), re.MULTILINE)
    except (OSError, ValueError):
        return available
    return available if most == "max" else min(available, int(most) - used + (int(cached[1]) if cached else 0))


def _of_cuda(torch: Any) -> tuple[int, int]:
    """Return what torch's tensors hold on the GPU, and what they could still get, bytes."""
    free, _ = torch.cuda.mem_get_info()
    held = int(torch.cuda.memory_allocated())
    return held, int(free) + int(torch.cuda.memory_reserved()) - held


def _of_this_process() -> tuple[int, int]:
    """Return what this process holds, and what it could still get before the computer or a limit stops it, bytes."""
    import psutil  # noqa: PLC0415  # for drawing workers only

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        # Such a limit is on addresses. What failed has given some back before anybody could look: the peak has not.
        most = _most_addresses() or psutil.Process().memory_info().vms
        return most, max(0, limit - most)
    return int(psutil.Process().memory_info().rss), int(psutil.virtual_memory().available)


def _most_addresses() -> int:
    """Return the largest address space this process has had, bytes; 0 where that is not known. Source: proc(5)."""
    try:
        found = re.search(r"^VmPeak:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0
