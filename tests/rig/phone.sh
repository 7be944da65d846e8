#!/bin/sh
# The emulated phone: Debian's adbd (x86-64) in a root whose whole userland is aarch64, run by
# qemu-user through a binfmt_misc of its own user namespace. Only inside `unshare -Urn`: adbd is an
# unauthenticated shell. Listens on ADBD_PORT of that namespace; its storage has PHONE_MB megabytes
# and is gone with it.
R=$(dirname "$(dirname "$(readlink -f "$0")")")
export R ADBD_PORT="${ADBD_PORT:-5599}" PHONE="$R/phone" PHONE_MB="${PHONE_MB:-1024}"
exec unshare -Urm sh -ec '
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
magic="\\x7fELF\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\xb7\\x00"
mask="\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\\xff"
printf "%s" ":qemu-aarch64:M::$magic:$mask:$R/host/usr/bin/qemu-aarch64:OPF" \
  > /proc/sys/fs/binfmt_misc/register
for folder in proc dev sys; do mount --rbind /$folder "$PHONE/$folder"; done
mount --bind "$R/host" "$PHONE/host"
mount -t tmpfs -o "size=$PHONE_MB"m none "$PHONE/data/local/tmp"
L=/host/usr/lib/x86_64-linux-gnu
exec "${PYTHON:-python3}" "$R/bin/without_vsock.py" env -i PATH=/system/bin HOME=/data/local/tmp TMPDIR=/data/local/tmp QEMU_CPU=cortex-a76 \
  ADBD_PORT="$ADBD_PORT" "$(command -v chroot)" "$PHONE" "$L/ld-linux-x86-64.so.2" --argv0 adbd \
  --library-path "$L:$L/android" /host/usr/lib/android-sdk/platform-tools/adbd
'
