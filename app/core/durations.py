"""Durations, as people say them."""


def in_words(seconds: float) -> str:
    """Say how long so many seconds are, with tenths only where they matter."""
    seconds = max(0.0, seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
