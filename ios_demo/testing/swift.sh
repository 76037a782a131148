#!/bin/bash
# Runs a shell command in the project's root where `swift` (6.0 or later) is: the one on the PATH, or else Debian
# trixie's swiftlang in a folder of its own, build/swift, which the first call makes (needs Debian or Ubuntu, root,
# 3 GB of disk). Usage: ios_demo/testing/swift.sh COMMAND
set -euo pipefail
cd "$(dirname "$0")/../.."

if command -v swift > /dev/null; then
    exec bash -c "$1"
fi

folder=build/swift
root=$folder/root
packages=swiftlang,libc6-dev,libstdc++-14-dev,git,ca-certificates

need() {
    echo "make test-ios: $1 Or install Swift 6 so that \`swift\` is on the PATH." >&2
    exit 2
}

install_swift() {
    [ "$(uname -s)" = Linux ] || need "no swift here; install Xcode 16."
    [ "$(id -u)" = 0 ] || need "no swift here; as root, Debian's swiftlang would be installed into $root."
    if ! command -v debootstrap > /dev/null; then
        command -v apt-get > /dev/null || need "debootstrap is missing, and so is apt-get to install it with."
        { apt-get update && apt-get install -y --no-install-recommends debootstrap; } > /dev/null 2>&1 ||
            need "debootstrap cannot be installed."
    fi
    free=$(df -Pk build | awk 'NR == 2 { print int($4 / 1048576) }')
    [ "$free" -ge 4 ] || need "$free GB are free, installing Swift needs 4."
    echo "Installing Swift into $root (3 GB, a few minutes) ..."
    rm -rf "$root"
    mkdir -p "$folder"
    debootstrap --variant=minbase --include="$packages" trixie "$root" > "$folder/install.log" 2>&1 ||
        need "installing Swift failed, see $folder/install.log."
    rm -rf "$root"/var/cache/apt/archives/*.deb
    mkdir -p "$root/himix/ios_demo" "$root/himix/build/ios"
    touch "$folder/stamp"
}

mkdir -p build/ios
[ -f "$folder/stamp" ] || install_swift
# Mounts live in a namespace of their own and end with the command; /dev holds only what a compiler needs.
exec unshare --mount --propagation private bash -euc '
    mount --bind /proc "$1/proc"
    mount -t tmpfs none "$1/dev"
    mknod -m 666 "$1/dev/null" c 1 3
    mknod -m 666 "$1/dev/zero" c 1 5
    mknod -m 666 "$1/dev/random" c 1 8
    mknod -m 666 "$1/dev/urandom" c 1 9
    ln -s /proc/self/fd "$1/dev/fd"
    mkdir -m 1777 "$1/dev/shm"
    mount --bind ios_demo "$1/himix/ios_demo"
    mount -o remount,bind,ro "$1/himix/ios_demo"
    mount --bind build/ios "$1/himix/build/ios"
    exec chroot "$1" /usr/bin/env -i HOME=/tmp PATH=/usr/bin:/bin LANG=C.UTF-8 bash -c "cd /himix && $2"
' mounts "$root" "$1"
