"""The bundle: one archive with everything a phone or board needs to run the device server.

It holds CPython, TVM's runtime, LiteRT and the C library they were linked with. So nothing of the
device's own userland is needed: no APK, no NDK, no root.
"""

from __future__ import annotations

from cprune_tf.devices.bundle.debian import FetchError
from cprune_tf.devices.bundle.make import (
    Bundle,
    BundleError,
    default_directory,
    find_bundle,
    make_bundle,
)

__all__ = ["Bundle", "BundleError", "FetchError", "default_directory", "find_bundle", "make_bundle"]
