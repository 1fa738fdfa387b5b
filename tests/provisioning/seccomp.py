"""Takes flock and hard links from a process, as some network filesystems do: the kernel itself refuses them.

As `sitecustomize.py` on PYTHONPATH it works on any Python program. seccomp(2); classic BPF: linux/filter.h.
"""

import ctypes
import errno
import platform
import struct

SYSCALLS = {
    "x86_64": {"flock": 73, "link": 86, "linkat": 265},
    "aarch64": {"flock": 32, "linkat": 37},
}[platform.machine()]
REFUSED = {"flock": errno.ENOLCK, "link": errno.EPERM, "linkat": errno.EPERM}
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, FAIL_WITH = 0x7FFF0000, 0x00050000
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, MODE_FILTER = 22, 38, 2


def _program() -> bytes:
    steps = [(LOAD, 0, 0, 0)]  # the number of the system call is the first word of what the filter is given
    for name, number in SYSCALLS.items():
        steps += [(JUMP_IF_EQUAL, 0, 1, number), (RETURN, 0, 0, FAIL_WITH | REFUSED[name])]
    steps.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def install() -> None:
    """Refuse the calls from now on, in this process and its children."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = ctypes.create_string_buffer(_program())
    filter_ = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(code))
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, MODE_FILTER, filter_, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp is not to be had here")


if __name__ == "sitecustomize":
    install()
