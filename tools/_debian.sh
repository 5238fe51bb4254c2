# Sourced by tools/matrix: a Python that this machine lacks, from a minimal Debian of its own in a folder.
#
# debian_with VERSION           sets $suite and $packages to the Debian release that comes with this Python
# make_debian ROOT              makes that release in the folder ROOT, unless it is there
# in_debian ROOT COMMAND...     runs a command in it: with processes and mounts of its own, and our network
#
# The first two set $reason, and fail, where it cannot be had. It takes root, and a Debian machine that reaches Debian's
# packages, or DEBIAN_MIRROR. A release is 500 MB and takes one to two minutes to make.

# The release to come has two Pythons, and a newer SQLite than any before it.
debian_with() {
    case $1 in
        3.11) suite=bookworm packages=python3,python3-venv ;;
        3.13) suite=trixie packages=python3,python3-venv ;;
        3.14 | 3.15) suite=forky packages=python3.14,python3.14-venv,python3.15,python3.15-venv ;;
        *) reason="it is not on PATH, and no Debian is known that comes with it" && return 1 ;;
    esac
}

make_debian() {
    if [ "$(id -u)" != 0 ]; then
        reason="it is not on PATH, and only root can make the Debian $suite that comes with it" && return 1
    elif ! unshare --mount --pid --fork true 2>/dev/null; then
        reason="it is not on PATH, and this machine lets not even root mount what Debian $suite needs" && return 1
    elif [ -e "$1" ]; then
        return 0
    elif ! _have_debootstrap; then
        reason="it is not on PATH, and there is no debootstrap to make the Debian $suite that comes with it" && return 1
    fi
    # It gets its name when it is whole: what a killed run has left behind is made again.
    rm -rf "$1.part" && mkdir -p "$1.part" || return 1
    printf 'making Debian %s in %s\n' "$suite" "$1" >&2
    # sid's script is right for releases that are newer than this machine's debootstrap.
    timeout 15m debootstrap --variant=minbase --include="$packages,ca-certificates,curl" "$suite" "$1.part" \
        "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" /usr/share/debootstrap/scripts/sid >"$1.log" 2>&1 ||
        { reason="debootstrap of Debian $suite failed: $(tail -n 1 "$1.log") (see $1.log)" && return 1; }
    mv "$1.part" "$1"
}

_have_debootstrap() {
    command -v debootstrap >/dev/null && return
    command -v apt-get >/dev/null && { timeout 5m apt-get update -qq && timeout 5m apt-get install -y -qq debootstrap; } >&2
}

in_debian() {
    local root=$1
    shift
    # Names and certificates as this machine has them: one behind a proxy may trust some that Debian does not.
    cp -L --remove-destination /etc/resolv.conf "$root/etc/resolv.conf" &&
        cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt" || return
    # Its processes end, and its mounts go, with the first of them. A /dev/shm and terminals of its own, as on any machine.
    unshare --mount --pid --fork --kill-child sh -c '
        root=$1 && shift &&
        mount -t proc proc "$root/proc" && mount --rbind /dev "$root/dev" && mount -t tmpfs tmpfs "$root/dev/shm" &&
        mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts" &&
        mount --bind "$root/dev/pts/ptmx" "$root/dev/ptmx" &&
        exec chroot "$root" "$@"
    ' in_debian "$root" env -i HOME=/root PATH=/usr/bin:/bin:/usr/sbin:/sbin LANG=C.UTF-8 TERM="${TERM:-dumb}" \
        ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
        ${PIP_INDEX_URL:+PIP_INDEX_URL="$PIP_INDEX_URL"} "$@"
}
