"""What the system says where it has no more to give: descriptors or memory for sockets."""

from __future__ import annotations

import errno
import ssl
from typing import Final

_SCARCE: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


def is_scarcity(error: BaseException) -> bool:
    """Did it fail for want of something of our own, and not for the other side?"""
    return (
        isinstance(error, OSError)
        and error.errno in _SCARCE
        and not isinstance(error, ssl.SSLError)  # whose numbers are its own
    )
