# Set-up for tools/demo and tools/test: sourced, not run. Installs the system packages that are absent on Debian and its
# relatives; elsewhere says in one sentence what to install. Safe to source twice.

say() { printf '\n== %s\n' "$*"; }
fail() { printf '%s\n' "$*" >&2; exit 2; }

# The packages: OpenBLAS for matrix products; a C++ compiler and CMake for the SentencePiece library.
packages=(libopenblas-pthread-dev cmake pkg-config g++ make)

have_libraries() {
    command -v cmake >/dev/null && command -v pkg-config >/dev/null && command -v c++ >/dev/null &&
        command -v make >/dev/null && pkg-config --exists openblas
}

as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }

set_up_libraries() {
    have_libraries && return
    if command -v apt-get >/dev/null && { [ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null; }; then
        say "installing ${packages[*]}"
        as_root apt-get update -qq
        DEBIAN_FRONTEND=noninteractive as_root apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
        have_libraries || fail "set-up: the packages were installed and OpenBLAS is still not found by pkg-config"
    else
        fail "set-up: install OpenBLAS with its headers (known to pkg-config as openblas), CMake, pkg-config, make and a C++ compiler, then run this again"
    fi
}

set_up_rust() {
    [ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
    local wanted have
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    have=$(cargo --version 2>/dev/null | sed -n 's/^cargo \([0-9.]*\).*/\1/p')
    if [ -n "$have" ] && [ "$(printf '%s\n' "$wanted" "$have" | sort -V | head -n 1)" = "$wanted" ]; then
        return
    fi
    fail "set-up: Rust $wanted or newer is needed (found: ${have:-none}); install it from https://rustup.rs, then run this again"
}

set_up_rust
set_up_libraries
