"""Makes the bundle that `--device=adb:SERIAL` pushes to a phone: Python, TVM's runtime and LiteRT.

    python tools/make_bundle.py

Run it once, and again after TVM was upgraded. It needs Debian or Ubuntu and network access; nothing
is installed. The bundle also runs on any arm64 Linux: unpack it and start
`./py -m cprune_tf.devices.agent.server` with the package in PYTHONPATH.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from absl import flags

from cprune_tf.cli import command_line

_OUTPUT = flags.DEFINE_string(
    "output", None, "The bundle's folder; by default CPRUNE_TF_BUNDLES, or one in the user's cache."
)
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Make the bundle even if there is a current one."
)


def run() -> None:
    """The entry point of `cprune-make-bundle`."""
    command_line.run_main(main)


def main(argv: Sequence[str]) -> None:
    """Makes the bundle unless a current one exists, and prints where it is."""
    del argv
    from cprune_tf.devices import bundle

    directory = command_line.writable_folder(
        "output", _OUTPUT.value or str(bundle.default_directory())
    )
    current = None
    if not _OVERWRITE.value:
        with contextlib.suppress(bundle.BundleError):
            current = bundle.find_bundle(directory)
    if current is None or not current.is_current():
        current = bundle.make_bundle(directory, note=lambda text: print(text, flush=True))
    versions = ", ".join(f"{name} {version}" for name, version in current.runtimes.items())
    size_mb = current.path.stat().st_size / 1e6
    print(f"{current.path} ({size_mb:.0f} MB, {current.abi}): {versions}")


if __name__ == "__main__":
    run()
