# Sourced by the programs beside it: `run MODULE ARGS...` sees that the virtual environment is there
# and up to date, and becomes that module of the project. While nothing changes, that starts neither
# pip nor another Python; otherwise _install.sh does the work, once.
#
#   INGESTOR_PYTHON  the interpreter to use, 3.11 to 3.13 (else the newest that is found)
#   INGESTOR_VENV    where the environment lives (else .venv in the project)
#
# Each set of packages, "run" for users and "test" for bin/test, leaves a stamp in the environment.
# Its lines: what the set was made from, the INGESTOR_PYTHON of that time, the interpreter behind it.
# shellcheck shell=bash

set -euo pipefail

# Another Python's settings would send ours, and the processes it starts, to the wrong library.
unset PYTHONHOME PYTHONPATH PYTHONUSERBASE PYTHONSTARTUP
export PYTHONNOUSERSITE=1

readonly UNUSABLE=69 # EX_UNAVAILABLE of sysexits.h: something that is needed is missing
root=${BASH_SOURCE[0]%/bin/_env.sh}
venv=${INGESTOR_VENV:-$root/.venv}
[[ $venv == /* ]] || venv=$PWD/$venv

say() { printf 'ingestor: %s\n' "$*" >&2; }

give_up() {
    say "$@"
    exit "$UNUSABLE"
}

# What changes when the interpreter behind the environment does.
interpreter() { stat -Lc '%s %Y' "$venv/bin/python" && readlink -f "$venv/bin/python"; }

# What changes when an installation would: the interpreter, the place, what is listed, what is compiled.
fingerprint() {
    local file files=("$root"/{pyproject.toml,setup.cfg,constraints.txt})
    for file in "$root"/setup.py "$root"/ingestor/{,*/}*.{pyx,pxd,pxi}; do
        [[ ! -e $file ]] || files+=("$file")
    done
    { interpreter && echo "$root" && cat "${files[@]}"; } 2>/dev/null | sha256sum
}

# Whether a set of packages is there, made from what is here now by the interpreter asked for.
ready() {
    local made_from asked
    { read -r made_from && read -r asked; } 2>/dev/null <"$venv/.ingestor-$1" || return 1
    [[ -z ${INGESTOR_PYTHON:-} || $INGESTOR_PYTHON == "$asked" ]] || return 1
    [[ $made_from == "$(fingerprint)" ]]
}

# Makes a set of packages ready; the rest of the arguments are the project's extras it needs.
need() {
    ready "$1" && return
    source "$root/bin/_install.sh"
    check_writable
    # One at a time: a second call waits here, and then finds the work done.
    exec 9>"$root/.venv.lock"
    flock --nonblock 9 || { say "waiting for an installation that is under way"; flock 9; }
    ready "$1" || make "$@"
    exec 9>&-
}

run() {
    need run
    exec "$venv/bin/python" -P -m "$@"
}

# As `run`, for a program that begins with run_program. Python shows a traceback for a signal that
# comes while it starts: they are blocked until the program lets them in, as its first act.
run_from_first_line() {
    need run
    local block=(env --block-signal=INT,TERM,HUP,USR1)
    "${block[@]}" true 2>/dev/null || block=() # GNU coreutils before 8.31, BusyBox
    exec "${block[@]}" "$venv/bin/python" -P -m "$@"
}
