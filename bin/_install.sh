# Sourced by _env.sh when the environment is missing or out of date; holds its lock.
#
# Stamps go before an installation starts and come back when it is complete. An environment without
# the stamp "run" was interrupted, or is not ours: it is made anew, not mended.
# shellcheck shell=bash

# Prints "yes|no PATH" of an interpreter that runs and is of the right version: can it make venvs?
examine() {
    "$1" -I -c '
import importlib.util, os, sys
if (3, 11) <= sys.version_info[:2] <= (3, 13):
    able = "yes" if importlib.util.find_spec("ensurepip") else "no"
    print(able, os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable))
' 2>/dev/null || true
}

# A checkout may be shared: who may not write there can use it once its owner has made it ready.
check_writable() {
    local path
    for path in "$root" "$root/.venv.lock" "$venv"; do
        [[ ! -e $path || -w $path ]] || give_up "the environment in $venv is missing or out of date," \
            "and $path belongs to $(stat -c %U "$path"): have them run this once, or use a clone of your own"
    done
}

has_uv() { uv --version >/dev/null 2>&1; }

candidates() {
    if [[ -n ${INGESTOR_PYTHON:-} ]]; then
        printf '%s\n' "$INGESTOR_PYTHON"
        return
    fi
    printf '%s\n' python3.13 python3.12 python3.11 python3
    printf '%s\n' "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/3.1[123].*/bin/python | sort -rV
}

# Prints the path of the interpreter to make the environment with.
find_python() {
    local command able path unable=
    while read -r command; do
        read -r able path < <(examine "$command") || continue
        if [[ $able == yes ]] || has_uv; then
            printf '%s\n' "$path"
            return
        fi
        unable=${unable:-$path}
    done < <(candidates)
    [[ -z $unable ]] || give_up "$unable cannot make a virtual environment:" \
        "install python3-venv (Debian and Ubuntu: apt-get install python3-venv) or uv"
    [[ -z ${INGESTOR_PYTHON:-} ]] || give_up \
        "INGESTOR_PYTHON=$INGESTOR_PYTHON is not a working Python 3.11, 3.12 or 3.13"
    give_up "found no working Python 3.11, 3.12 or 3.13: install one, or name it in INGESTOR_PYTHON"
}

# Whether the environment was completed once, and its interpreter is still the one to use.
reusable() {
    local python
    [[ -f $venv/.ingestor-run && -n $(examine "$venv/bin/python") ]] || return 1
    [[ $(tail -n +3 "$venv/.ingestor-run") == "$(interpreter)" ]] || return 1
    [[ -n ${INGESTOR_PYTHON:-} ]] || return 0
    python=$(find_python) && [[ $python -ef $venv/bin/python ]]
}

make_venv() {
    local python
    python=$(find_python)
    if [[ $venv != "$root/.venv" && -n $(ls -A "$venv" 2>/dev/null) && ! -e $venv/pyvenv.cfg ]]; then
        give_up "INGESTOR_VENV=$venv is neither empty nor a virtual environment: not touching it"
    fi
    rm -rf -- "$venv"
    if has_uv; then
        say "making $venv with $python and uv, once"
        uv venv --quiet --no-project --python "$python" "$venv"
    else
        say "making $venv with $python and pip, once; this may take a minute"
        "$python" -I -m venv "$venv"
    fi
}

# Installs with uv or pip, whichever is there.
pip_install() {
    if has_uv; then
        uv pip install --quiet --python "$venv/bin/python" "$@"
    else
        "$venv/bin/python" -I -m pip install -qq --no-user --no-input \
            --disable-pip-version-check "$@"
    fi
}

# Installs the project with a list of its extras, and says so where a module was not compiled.
install_project() {
    local source suffix
    suffix=$("$venv/bin/python" -I -c 'import sysconfig as s; print(s.get_config_var("EXT_SUFFIX"))')
    rm -f -- "$root"/ingestor/{,*/}*"$suffix" # a build that fails must not leave an older one's work
    has_uv && set -- "$1" --reinstall-package ingestor # which builds again, as pip always does
    pip_install --constraint "$root/constraints.txt" "${@:2}" --editable "$root${1:+[$1]}" ||
        give_up "the installation failed; the reason stands above"
    for source in "$root"/ingestor/{,*/}*.pyx; do
        [[ ! -e $source || -e ${source%.pyx}$suffix ]] || say "${source##*/} was not compiled and" \
            "plain Python does its work, some ten times slower: install a C compiler" \
            "(gcc, libc6-dev, python3-dev), remove $venv"
    done
}

stamp() {
    { fingerprint && printf '%s\n' "${INGESTOR_PYTHON:-}" && interpreter; } >"$venv/.ingestor-$1"
}

# Makes a set ready: its name, then the project's extras it has.
make() {
    local what=$1 extras=${2:-}
    reusable || make_venv
    rm -f -- "$venv"/.ingestor-{run,"$what"}
    say "installing what the project needs${extras:+, and the extras $extras}"
    install_project "$extras"
    [[ $what == run ]] || stamp "$what"
    stamp run
}
