"""Bringing a file from an origin that knows no ranges: one connection, from the beginning, as often as it takes."""

import os
import threading
import time
from collections.abc import Callable

from provisioning import disk
from provisioning.errors import OriginBroken, ProvisioningError, Stopped, TooSlow, Truncated, WrongSize
from provisioning.passage import READ_FIRST, read_size
from provisioning.transfer import PARTING_SECONDS, WATCH_SECONDS, Haul
from provisioning.transport import Reply


class StreamTransfer:
    """One body, written in order and hashed behind the writer."""

    def __init__(self, haul: Haul, reply: Reply, limit: int | None) -> None:
        self.limit = limit
        self.reply = reply
        self.descriptor = haul.descriptor
        self.frontier = haul.frontier
        self.stop = haul.lanes.stop
        self.stall_seconds = haul.stall_seconds
        self.written = 0
        self.moved_at = time.monotonic()
        self.trouble: Exception | None = None
        self.over = False
        # Held to write; not taken up any more when it is over: then the file is closed, or another stream begins it.
        self.pen = threading.Lock()

    def run(self, size: int | None, progress: Callable[[int], None]) -> int:
        """Read the body to its end and return its length. Raises `Truncated`, `TooSlow`, `Stopped`, `OSError`."""
        os.ftruncate(self.descriptor, 0)
        thread = threading.Thread(target=self._pour, name="stream", daemon=True)
        thread.start()
        stalled, outflow = False, disk.Outflow(self.descriptor)
        try:
            while thread.is_alive():
                thread.join(WATCH_SECONDS)
                progress(self.written)
                outflow.push(self.written)
                if self.stop.is_set():
                    raise Stopped
                if time.monotonic() - self.moved_at > self.stall_seconds:
                    stalled = True
                    self.reply.sever()
        finally:
            self.over = True
            self.reply.sever()
            thread.join(PARTING_SECONDS)
            with self.pen:  # a write that is going on has ended, and another one does not begin
                pass
            self.reply.close()
        if stalled:
            raise TooSlow(f"the origin sent nothing for {self.stall_seconds:g} s after {self.written} bytes")
        if self.trouble is not None:
            raise self.trouble
        if size is not None and self.written != size:
            raise Truncated(f"the origin ended the file after {self.written} of {size} bytes")
        self.frontier.advance(self.written, self.written)
        return self.written

    def _pour(self) -> None:
        encoding = self.reply.headers.get("Content-Encoding", "identity")
        amount, began = READ_FIRST, time.monotonic()
        try:
            if encoding not in {"identity", "gzip", "deflate"}:
                raise OriginBroken(f"the origin sent content-encoding {encoding}, which was not asked for")
            while data := self.reply.read(amount, decode=encoding != "identity"):
                with self.pen:
                    if self.over:
                        return
                    disk.write_all(self.descriptor, data, self.written)
                    self.written += len(data)
                    self.frontier.advance(self.written)
                if self.limit is not None and self.written > self.limit:
                    raise WrongSize(f"the origin sent more than the {self.limit} bytes that the catalogue says")
                self.moved_at = time.monotonic()
                amount = read_size(self.written / max(self.moved_at - began, 0.001))
        except (ProvisioningError, OSError) as error:
            self.trouble = error
