"""Runs a command that can't open vsock sockets: these ignore network namespaces.

python without_vsock.py COMMAND ARGUMENTS...
"""

import ctypes
import errno
import os
import struct
import sys

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _FAIL_WITH = 0x7FFF0000, 0x00050000
_SOCKET_ON_X86_64, _AF_VSOCK = 41, 40
_PROGRAM = (  # (code, skip if equal, skip if not, value)
    (_LOAD, 0, 0, 0),  # the system call's number
    (_JUMP_IF_EQUAL, 0, 3, _SOCKET_ON_X86_64),
    (_LOAD, 0, 0, 16),  # its first argument
    (_JUMP_IF_EQUAL, 0, 1, _AF_VSOCK),
    (_RETURN, 0, 0, _FAIL_WITH | errno.EAFNOSUPPORT),
    (_RETURN, 0, 0, _ALLOW),
)


class _Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("program", ctypes.c_void_p)]


def main() -> None:
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in _PROGRAM))
    rules = _Filter(len(_PROGRAM), ctypes.cast(code, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(rules), 0, 0),
    ):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "prctl failed")
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
