#!/usr/bin/env bash
# Installs what the chaos tests inject faults with, as Debian packages. Idempotent, and quick when everything is there.
#   nft (partitions), xfs_io (power cuts), strace (failing and slow system calls), mkfs.ext4, mount, losetup, unshare,
#   setpriv, prlimit (disks, namespaces, limits), ip (loopback of a namespace)
set -euo pipefail
die() { echo "error: $*" >&2; exit 1; }
PATH=$PATH:/usr/sbin:/sbin
missing=()
need() { command -v "$1" >/dev/null || missing+=("$2"); }
need nft nftables
need xfs_io xfsprogs
need strace strace
need mkfs.ext4 e2fsprogs
need mount mount
need losetup mount
need unshare util-linux
need setpriv util-linux
need prlimit util-linux
need ip iproute2
[ ${#missing[@]} = 0 ] && exit 0
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else die "$* needs root"; fi; }
command -v apt-get >/dev/null || die "${missing[*]} missing and there is no apt-get to install them"
as_root apt-get update -qq >&2 || die "apt-get update failed"
as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2 </dev/null \
  || die "apt-get could not install ${missing[*]}"
