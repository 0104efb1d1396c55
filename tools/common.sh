# shellcheck shell=bash
# What tools/demo, tools/test and .ci/run share. Sourced by bash, with the repository as working directory.

say() { printf '%s\n' "$*"; }
die() { printf '%s\n' "$*" >&2; exit 1; }

# apt_install PACKAGE...: installs them on Debian and its children; elsewhere names them and stops.
apt_install() {
    if ! command -v apt-get >/dev/null; then
        die "These packages (their Debian names) are missing, please install them: $*"
    fi
    local sudo=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || die "Please install as root: apt-get install $*"
        sudo=(sudo)
    fi
    say "installing $*"
    local log
    log=$(mktemp)
    # An apt that somebody else is running right now is waited for, not an error.
    if ! { "${sudo[@]}" apt-get update -q &&
        "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q \
            -o DPkg::Lock::Timeout=300 --no-install-recommends "$@"; } >"$log" 2>&1 </dev/null; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        die "apt-get could not install: $*"
    fi
    rm -f "$log"
}

# Installs what a build and the tests need and is not there yet.
install_missing() {
    local missing=()
    command -v "${CXX:-g++}" >/dev/null || missing+=(g++)
    command -v meson >/dev/null || missing+=(meson)
    command -v ninja >/dev/null || missing+=(ninja-build)
    command -v python3 >/dev/null || missing+=(python3)
    command -v pkg-config >/dev/null || missing+=(pkg-config)
    [ -e /usr/include/liburing.h ] || pkg-config --exists liburing 2>/dev/null || missing+=(liburing-dev)
    [ -e /usr/include/doctest/doctest.h ] || [ -e /usr/local/include/doctest/doctest.h ] ||
        missing+=(doctest-dev)
    [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"
}

# quietly COMMAND...: says nothing unless the command fails, then the end of what it printed.
quietly() {
    local log status=0
    log=$(mktemp)
    "$@" >"$log" 2>&1 </dev/null || status=$?
    if [ $status != 0 ]; then
        say "failed ($status): $*"
        tail -n "${TAIL:-40}" "$log"
    fi
    rm -f "$log"
    return $status
}

# configure DIRECTORY MESON_OPTION...: the first time, or again.
configure() {
    local directory=$1
    shift
    if [ ! -e "$directory/build.ninja" ]; then
        quietly meson setup "$directory" "$@"
    elif ! quietly meson setup --reconfigure "$directory" "$@"; then
        say "If $directory comes from another system or compiler: rm -r $directory"
        return 1
    fi
}
