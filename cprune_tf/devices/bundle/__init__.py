"""The bundle: what a phone or board needs to run the device server, in one archive.

CPython, TVM's runtime, LiteRT and the C library they were linked with, so that nothing of the
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
