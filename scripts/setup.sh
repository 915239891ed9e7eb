# Sourced by the other scripts: a Python 3.13 environment in .venv, as requirements.lock has it.
# Needs Python 3.13 and the package registries. Outside of the folder nothing is touched, but for two
# cases: root on Debian gets Debian's venv package where Python cannot make an environment and there is
# no uv, and, running the tests without npm, PostgreSQL or Chromium, Debian's packages of these.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '%s\n' "$*" >&2; }

# Runs what takes seconds. With `&` it does not hear Ctrl-C, of which it would tell in a traceback:
# bash hears it, ends it and leaves.
child=
run() {
    "$@" &
    child=$!
    wait "$child"
    child=
}
trap '[ -z "$child" ] || kill "$child" 2>/dev/null; say "Stopped."; exit 130' INT

is_python_313() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 13))' 2>/dev/null; }

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.13 python3.14 python3 python \
        "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[3-9]*/bin/python \
        /usr/local/bin/python3.13 /opt/homebrew/bin/python3.13; do
        [ -n "$candidate" ] || continue
        candidate=$(command -v "$candidate" 2>/dev/null) || continue
        if is_python_313 "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    if command -v uv >/dev/null; then
        uv python find '>=3.13' 2>/dev/null && return
    fi
    say "Python 3.13 or newer was not found. Install it, or set PYTHON=/path/to/python3.13."
    return 1
}

is_root_on_debian() { command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; }

# Packages of Debian's; whether they came is for the caller to see.
apt_install() {
    run apt-get update -qq >&2 || true
    DEBIAN_FRONTEND=noninteractive run apt-get install -qq --yes --no-install-recommends "$@" >&2 ||
        true
    hash -r
}

has_ensurepip() { "$1" -c 'import ensurepip' 2>/dev/null; }

# Debian splits off the part of Python that fills an environment with pip: from Debian where we are
# root there.
have_ensurepip() {
    local python=$1 version
    has_ensurepip "$python" && return
    if is_root_on_debian; then
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
            version=3.13
        say "$python lacks ensurepip: installing Debian's python$version-venv (a minute or so) ..."
        apt_install "python$version-venv"
        has_ensurepip "$python" && return
    fi
    say "$python cannot make an environment: ensurepip is missing."
    say "On Debian and Ubuntu: apt-get install python3-venv (for another Python: python3.13-venv)."
    return 1
}

# An empty environment with pip.
make_venv() {
    local python=$1 folder=$2
    if ! has_ensurepip "$python" && command -v uv >/dev/null; then
        say "Making an environment for $python in $folder with uv ..."
        # uv asks before it clears a folder, or refuses one that an interrupted set-up has left.
        rm -rf "$folder"
        run uv venv --quiet --seed --python "$python" "$folder"
        return
    fi
    have_ensurepip "$python" || return 1
    say "Making an environment for $("$python" --version) in $folder ..."
    run "$python" -m venv --clear "$folder"
}

# Whether an environment has the right Python, and pip: one whose making was interrupted has not.
is_usable() { is_python_313 "$1" && "$1" -c 'import pip' 2>/dev/null; }

# The packages of a lock, into an environment.
pip_install() {
    local folder=$1 lock=$2
    export PIP_DISABLE_PIP_VERSION_CHECK=1
    say "Installing the $(grep -c '^[a-z]' "$lock") packages of $lock into $folder (a minute or so) ..."
    run "$folder/bin/python" -m pip install --quiet --require-hashes --requirement "$lock"
}

# The venv of a clone is made anew when the lock changes, and reused otherwise.
set_up_python() {
    local stamp=.venv/.installed wanted
    wanted=$(cat requirements.lock pyproject.toml .python-version | cksum)
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
        return
    fi
    local python
    python=$(find_python)
    is_usable .venv/bin/python || make_venv "$python" .venv
    pip_install .venv requirements.lock
    say "Installing mpp-gateway itself into .venv ..."
    run .venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
    printf '%s\n' "$wanted" >"$stamp"
}

# npm, from Debian where we are root there. CI fails without; at home only the peer tests are skipped.
have_npm() {
    command -v npm >/dev/null && return
    if is_root_on_debian; then
        say "npm was not found: installing Debian's nodejs and npm (a minute or so) ..."
        apt_install nodejs npm
        command -v npm >/dev/null && return
    fi
    say "npm was not found; install Node.js 20 or newer (Debian's packages: nodejs, npm)."
    return 1
}

npm_ci() { cd "$1" && exec npm ci --silent --no-audit --no-fund --legacy-peer-deps; }

# Node packages of one folder, as its package-lock.json has them.
set_up_node() {
    local folder=$1 stamp wanted
    stamp=$folder/node_modules/.installed
    wanted=$(cksum <"$folder/package-lock.json")
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
        return
    fi
    if ! have_npm; then
        say "Without it the tests in $folder are skipped."
        [ "${CI:-}" != true ]
        return
    fi
    say "Installing the Node packages of $folder (a minute or so) ..."
    run npm_ci "$folder"
    printf '%s\n' "$wanted" >"$stamp"
}

# An official Python client in an environment of its own: its packages and ours may disagree.
set_up_client() {
    local folder=$1 lock=$2 stamp wanted
    stamp=$folder/.venv/.installed
    wanted=$(cat "$lock" .python-version | cksum)
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
        return
    fi
    local python
    python=$(find_python)
    make_venv "$python" "$folder/.venv"
    pip_install "$folder/.venv" "$lock"
    printf '%s\n' "$wanted" >"$stamp"
}

has_postgres() { compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null; }

# The server that the tests start for themselves, from Debian where we are root there. CI fails
# without; at home only the tests of that store are skipped.
set_up_postgres() {
    has_postgres && return
    if is_root_on_debian; then
        say "PostgreSQL was not found: installing Debian's postgresql (a minute or so) ..."
        apt_install postgresql
        has_postgres && return
    fi
    say "PostgreSQL was not found (Debian's package: postgresql). Its tests are skipped."
    [ "${CI:-}" != true ]
}

has_chromium() { command -v chromium >/dev/null || command -v chromium-browser >/dev/null; }

# The browser that the tests of the payment page drive, from Debian where we are root there. CI fails
# without; at home only these tests are skipped.
set_up_chromium() {
    has_chromium && return
    if is_root_on_debian; then
        say "Chromium was not found: installing Debian's chromium (a minute or so) ..."
        apt_install chromium
        has_chromium && return
    fi
    say "Chromium was not found (Debian's package: chromium). The tests of the payment page are skipped."
    [ "${CI:-}" != true ]
}

# Everything that the tests in tests/peers pay the gateway with.
set_up_peers() {
    set_up_node tests/peers
    set_up_node tests/peers/x402
    set_up_client tests/peers tests/peers/pympp.lock
    set_up_client tests/peers/x402 tests/peers/x402/x402.lock
}
