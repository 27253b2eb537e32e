# Sourced by the scripts beside it: makes .venv with what pyproject.toml asks for, as constraints.txt pins it.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export PIP_DISABLE_PIP_VERSION_CHECK=1

# A Python from 3.11 to 3.13 that really runs (a version manager's stand-in may not) and can make a venv.
find_python() {
    local python
    for python in "${PYTHON:-}" python3.13 python3.12 python3.11 python3 python \
        "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[123].*/bin/python; do
        if [[ -n $python ]] && "$python" -c '
import sys, venv, ensurepip
sys.exit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1; then
            printf '%s\n' "$python"
            return
        fi
    done
    echo "Python 3.11, 3.12 or 3.13 with its venv module is needed; PYTHON=/path/to/python names one." >&2
    return 1
}

# install_project EXTRAS: nothing to do where the same was installed before; EXTRAS is "" or "[dev]".
install_project() {
    local venv="$root/.venv" python stamp
    if ! "$venv/bin/python" -c 'import pip' >/dev/null 2>&1; then
        python="$(find_python)"
        rm -rf "$venv"
        "$python" -m venv "$venv"
    fi
    # The place is part of it: the commands in .venv/bin name it.
    stamp="$({ echo "$root" && "$venv/bin/python" -V && cat "$root/pyproject.toml" "$root/constraints.txt"; } | cksum)"
    [[ "$(cat "$venv/installed[dev]" 2>/dev/null)" == "$stamp" ]] && return
    [[ "$(cat "$venv/installed$1" 2>/dev/null)" == "$stamp" ]] && return
    echo "Installing into $venv" >&2
    "$venv/bin/python" -m pip install --quiet --constraint "$root/constraints.txt" setuptools
    "$venv/bin/python" -m pip install --quiet --constraint "$root/constraints.txt" \
        --no-build-isolation --editable "$root$1"
    printf '%s\n' "$stamp" >"$venv/installed$1"
}
