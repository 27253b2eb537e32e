# Sourced by the scripts beside it: makes .venv with what pyproject.toml requires, as constraints.txt pins it.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export PIP_DISABLE_PIP_VERSION_CHECK=1

# first_python VERSIONS PYTHON...: the first of VERSIONS, such as "3.11 3.12", that really runs (a version
# manager's stand-in may not) and can make a venv.
first_python() {
    local versions="$1" python
    shift
    for python in "$@"; do
        if [[ -n $python ]] && "$python" -c '
import sys, venv, ensurepip
sys.exit("%d.%d" % sys.version_info[:2] not in sys.argv[1].split())' "$versions" >/dev/null 2>&1; then
            printf '%s\n' "$python"
            return
        fi
    done
    return 1
}

find_python() {
    first_python "3.11 3.12 3.13" "${PYTHON:-}" python3.13 python3.12 python3.11 python3 python \
        "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[123].*/bin/python && return
    echo "Python 3.11, 3.12 or 3.13 with its venv module is needed; PYTHON=/path/to/python names one." >&2
    return 1
}

# install_project EXTRAS [VENV PYTHON]: nothing to do where the same was installed before; EXTRAS is "" or "[dev]".
install_project() {
    local venv="${2:-$root/.venv}" python="${3:-}" checksum
    if ! "$venv/bin/python" -c 'import pip' >/dev/null 2>&1; then
        python="${python:-$(find_python)}"
        rm -rf "$venv"
        "$python" -m venv "$venv"
    fi
    # The path is part of it: the commands in .venv/bin contain it.
    checksum="$({ echo "$root" && "$venv/bin/python" -V && cat "$root/pyproject.toml" "$root/constraints.txt"; } | cksum)"
    [[ "$(cat "$venv/installed[dev]" 2>/dev/null)" == "$checksum" ]] && return
    [[ "$(cat "$venv/installed$1" 2>/dev/null)" == "$checksum" ]] && return
    echo "Installing into $venv" >&2
    "$venv/bin/python" -m pip install --quiet --constraint "$root/constraints.txt" setuptools
    "$venv/bin/python" -m pip install --quiet --constraint "$root/constraints.txt" \
        --no-build-isolation --editable "$root$1"
    printf '%s\n' "$checksum" >"$venv/installed$1"
}
