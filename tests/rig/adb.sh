#!/bin/sh
# Debian's adb through its own loader and libraries: this machine may be of another release.
R=$(dirname "$(dirname "$(readlink -f "$0")")")
L=$R/host/usr/lib/x86_64-linux-gnu
exec "$L/ld-linux-x86-64.so.2" --argv0 adb --library-path "$L:$L/android" \
  "$R/host/usr/lib/android-sdk/platform-tools/adb" "$@"
