# Sourced by run.sh and test.sh: makes sure that .venv holds what the project needs, and names its
# interpreter in PYTHON. An environment that is there already is reused, and brought up to date only
# where what it should hold has changed.

fail() { echo "error: $*" >&2; exit 1; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or later found: install one, or name it as PYTHON=/path/to/python"
}

# install PROGRAM...: everything in one go. A relative path in a requirements.txt counts from the
# current directory, for each of them one level below this one.
install() {
    (cd performance && "$@" --requirement requirements.txt \
        --requirement ../inversion/requirements.txt --requirement ../mitigation/requirements.txt \
        --editable '..[dev]')
}

# uv does in seconds what takes pip minutes. It does not read pip's configuration, so that behind a
# mirror or a proxy pip may find what uv does not.
install_all() {
    local -x PIP_QUIET=1 PIP_DISABLE_PIP_VERSION_CHECK=1
    if .venv/bin/python -m pip install "uv==0.13.9" &&
        install ../.venv/bin/uv pip install --quiet --no-cache --python ../.venv/bin/python; then
        return
    fi
    echo "uv is not to be had or fails; pip takes some minutes."
    install ../.venv/bin/python -m pip install
}

# Where it is set, as in many container images, every program compiles all modules that it imports
# anew, JAX's among them: five seconds each time, with uv, which does not compile what it installs.
unset PYTHONDONTWRITEBYTECODE

declared=(pyproject.toml */requirements.txt)
stamp=.venv/installed.sha256
if ! .venv/bin/python -c '' 2>/dev/null; then
    python=$(find_python)
    echo "Making the environment .venv with $("$python" --version)."
    "$python" -m venv --clear .venv ||
        fail "venv does not work here; on Debian and Ubuntu: apt-get install python3-venv"
fi
if ! sha256sum --check --status "$stamp" 2>/dev/null ||
    [ "$(wc -l <"$stamp")" -ne "${#declared[@]}" ]; then
    echo "Installing the pinned dependencies into .venv, 3 GB."
    install_all
    sha256sum "${declared[@]}" >"$stamp"
fi
PYTHON=$PWD/.venv/bin/python
export PYTHON
