# shellcheck shell=bash
# Shared by the scripts of this folder (and scripts/quickstart), which source it.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# Where everything that guests need is kept. Inside target, so that `cargo clean` is the one way to start over.
# shellcheck disable=SC2034  # for the scripts that source this
out=$(dirname "$here")/target/guest

say() {
    echo "${0##*/}: $*" >&2
}

die() {
    say "$*"
    exit 1
}

# A product is current while the inputs it was made from are the same as when it was marked so.
# Usage: is_current PRODUCT INPUT-FILE...   and, once PRODUCT is made, mark_current with the same arguments.
is_current() {
    local product=$1
    shift
    [[ -e $product && -e $product.inputs ]] && [[ $(cat -- "$@" | sha256sum) == $(<"$product.inputs") ]]
}

mark_current() {
    local product=$1
    shift
    cat -- "$@" | sha256sum >"$product.inputs"
}

# Installs packages on the system, if it may and can without removing others (as apt would when newer qemu-utils
# are installed than the configured sources have). Usage: install_packages PACKAGE...
install_packages() {
    [[ $EUID -eq 0 ]] || return 1
    say "installing $*"
    # A machine that has just been set up knows no packages at all.
    apt-cache show "$@" >/dev/null 2>&1 || apt-get -qq update >/dev/null 2>&1
    DEBIAN_FRONTEND=noninteractive \
        apt-get -qq install --yes --no-remove --no-install-recommends "$@" >/dev/null 2>&1
}
