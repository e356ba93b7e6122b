# Sourced by the other scripts: sets this machine up. Debian 12, Ubuntu 22.04, or later.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$top"
PATH=$PATH:/usr/sbin:/sbin # sshd and smbd are there, and not on the PATH of ordinary users

fail() {
    printf '%s: %s\n' "$(basename "$0")" "$1" >&2
    exit 1
}

# Install packages; an ordinary user is told how to.
install_packages() {
    if [ "$(id -u)" -ne 0 ]; then
        fail "something is missing on this machine; install it with: sudo apt-get install --no-install-recommends $*"
    fi
    command -v apt-get >/dev/null || fail "something is missing on this machine; install: $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq </dev/null
    without_daemons apt-get install -qq --yes --no-install-recommends "$@" </dev/null
}

# Debian starts a server as it installs it, on all interfaces, and again at every boot. Nobody asked for that here: the
# tests start servers of their own, on loopback. What was there before stays as it is.
without_daemons() {
    local unit policy=/usr/sbin/policy-rc.d new=()
    for unit in ssh.service ssh.socket smbd.service nmbd.service samba-ad-dc.service \
        krb5-kdc.service krb5-admin-server.service; do
        [ -e "/lib/systemd/system/$unit" ] || new+=("$unit")
    done
    if [ -e "$policy" ]; then # this machine has a policy already, as containers have
        "$@"
    else
        (
            trap 'rm --force "$policy"' EXIT
            printf '#!/bin/sh\nexit 101\n' >"$policy"
            chmod 755 "$policy"
            "$@"
        )
    fi
    command -v systemctl >/dev/null || return 0
    for unit in "${new[@]}"; do
        if systemctl --quiet is-enabled "$unit" 2>/dev/null; then # neither missing nor masked
            systemctl --quiet disable "$unit"
        fi
    done
}

# Each argument is PROGRAM:PACKAGE, or FILE:PACKAGE with a full path; the packages of what is missing are installed.
need() {
    local pair packages missing=()
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null || [ -e "${pair%%:*}" ] || missing+=("${pair#*:}")
    done
    if ! usable_python >/dev/null; then
        read -r -a packages <<<"$(python_packages)"
        missing+=("${packages[@]}")
    fi
    [ "${#missing[@]}" -eq 0 ] || install_packages "${missing[@]}"
    usable_python >/dev/null || fail "Python 3.11 or later, with venv, is needed"
}

# The first Python that is new enough and can make a virtual environment (Debian has that in a package of its own).
usable_python() {
    local name
    for name in python3 python3.13 python3.12 python3.11; do
        if "$name" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            echo "$name"
            return
        fi
    done
    return 1
}

python_packages() {
    if command -v python3 >/dev/null && ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo python3.11 python3.11-venv
    else
        echo python3 python3-venv
    fi
}

# Make .venv, or bring it up to date if pyproject.toml has changed since; then put it on the PATH. The argument is an
# extra of the project: dev, or none.
make_environment() {
    local extra=${1:-}
    local stamp=.venv/netoverlay-installed${extra:+-$extra}
    if ! .venv/bin/python -c '' 2>/dev/null; then
        "$(usable_python)" -m venv --clear .venv
    fi
    if ! sha256sum --check --status "$stamp" 2>/dev/null; then
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".${extra:+[$extra]}" </dev/null
        sha256sum pyproject.toml >"$stamp"
    fi
    PATH=$top/.venv/bin:$PATH
}
