# Sourced by tools/test and tools/demo, with $tools set to this folder: finds a Python and keeps a virtual environment.
#
# prepare_environment [EXTRA]   sets $venv to an environment in which this checkout is installed, editable, with
#                               EXTRA; all that it says goes to stderr, and it ends the script if it cannot.
#
# The environment is .venv in the checkout, or a folder in the user's cache when the checkout cannot be written or
# its .venv is somebody else's. Inside it `durable_bus_made` names the interpreter and the checkout that it was made for,
# `durable_bus_installed` the pyproject.toml and the extra; each is written last, so what an interrupted run left
# behind lacks it and is made again from nothing.

root=$(CDPATH='' cd -- "$tools/.." && pwd -P) || exit 2

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 2
}

# Settings of the caller's own Python must not leak into ours. Without bytecode a daemon takes twice as long to start.
unset PYTHONHOME PYTHONPATH PYTHONSTARTUP PYTHONWARNINGS PYTHONOPTIMIZE PYTHONDONTWRITEBYTECODE VIRTUAL_ENV
unset PIP_TARGET PIP_PREFIX PIP_USER CDPATH
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

# Started with stdin closed, the next file opened would become stdin.
(: <&0) 2>/dev/null || exec </dev/null

# Sets $python to the first interpreter that will do, $interpreter to a text that identifies it.
#
# The newest first, down to the oldest that will do: of those named, all that is installed comes as wheels (3.15: seen in
# November 2026). One newer than these may want a compiler, so it is taken only where there is no other.
find_python() {
    lacking=
    for candidate in "${PYTHON:-}" python3.15 python3.14 python3.13 python3.12 python3.11 python3; do
        [ -n "$candidate" ] || continue
        answer=$("$candidate" -c '
import sys
if sys.version_info < (3, 11):
    print("old")
else:
    try:
        import ensurepip, sqlite3, venv
        print("good", sys.executable, sys.base_prefix, sys.version.replace("\n", " "))
    except ImportError as error:
        print(error.name)
' 2>/dev/null </dev/null) || answer=absent
        case $answer in
            good*)
                python=$candidate
                interpreter=$answer
                return
                ;;
            absent | old | '') ;;
            *) lacking="${lacking:+$lacking; }$candidate lacks the module $answer" ;;
        esac
        if [ "$candidate" = "${PYTHON:-}" ]; then
            printf '%s: PYTHON=%s is not a Python >= 3.11 with venv; looking for another\n' "${0##*/}" "$PYTHON" >&2
        fi
    done
    [ -z "$lacking" ] || fail "no usable Python: $lacking (Debian and Ubuntu: install python3-venv)"
    fail "needs Python >= 3.11 and found none; install one, or name it: PYTHON=/path/to/python3"
}

# Sets $venv: the environment's folder, ours to make, keep and remove.
choose_folder() {
    venv=$root/.venv
    # An empty folder is ours too: we may have been killed just after we made it.
    if mkdir "$venv" 2>/dev/null || [ -e "$venv/durable_bus_lock" ] || [ -z "$(ls -A "$venv" 2>&1)" ]; then
        [ ! -w "$venv" ] || return
    fi
    venv=$("$python" -c '
import hashlib, os, sys, tempfile
home = os.path.expanduser("~")
name = "venv-" + hashlib.sha256(os.fsencode(sys.argv[1])).hexdigest()[:16]
for cache in (os.environ.get("XDG_CACHE_HOME"), os.path.join(home, ".cache"), tempfile.gettempdir()):
    if not cache or not os.path.isabs(cache):
        continue
    folder = os.path.join(cache, f"durable_bus-{os.getuid()}", name)
    try:
        os.makedirs(os.path.dirname(folder), mode=0o700, exist_ok=True)
        status = os.lstat(os.path.dirname(folder))
        if status.st_uid != os.getuid() or status.st_mode & 0o22:  # in /tmp anybody could have made it
            continue
        os.makedirs(folder, exist_ok=True)
    except OSError:
        continue
    print(folder)
    break
else:
    sys.exit(1)
' "$root") || fail "can write neither $root/.venv nor a cache folder; set XDG_CACHE_HOME to a writable one"
}

prepare_environment() {
    extra=${1:-}
    find_python
    choose_folder

    # Two tools at once must not build one environment twice. The lock belongs to the open file, so it stays with this
    # shell when the child that took it has ended.
    exec 9>>"$venv/durable_bus_lock" || fail "cannot write to $venv"
    "$python" -c 'import fcntl; fcntl.flock(0, fcntl.LOCK_EX)' <&9 || fail "cannot lock $venv/durable_bus_lock"

    made="$interpreter $root"
    pyproject=$("$python" -c '
import hashlib, sys
print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' "$root/pyproject.toml") || fail "cannot read $root/pyproject.toml"

    if [ "$(cat "$venv/durable_bus_made" 2>/dev/null)" != "$made" ] || ! "$venv/bin/python" -c '' 2>/dev/null; then
        printf 'making %s\n' "$venv" >&2
        # Not `venv --clear`: that would remove the lock, too, and another tool would take a new one.
        find "$venv" -mindepth 1 -maxdepth 1 ! -name durable_bus_lock -exec rm -rf {} +
        "$python" -m venv "$venv" </dev/null >&2 9>&- || fail "cannot make a virtual environment in $venv"
        printf '%s\n' "$made" >"$venv/durable_bus_made"
    fi

    installed=$(cat "$venv/durable_bus_installed" 2>/dev/null)
    # An environment with an extra serves those who need none.
    if [ "$installed" != "$pyproject $extra" ] && { [ -n "$extra" ] || [ "${installed%% *}" != "$pyproject" ]; }; then
        printf 'installing durable-bus%s into %s\n' "${extra:+[$extra]}" "$venv" >&2
        # Killed from here on, we leave an environment half installed: without the first mark it is made anew.
        rm -f "$venv/durable_bus_made" "$venv/durable_bus_installed"
        "$venv/bin/python" -m pip install --quiet --editable "$root${extra:+[$extra]}" </dev/null >&2 9>&- ||
            fail "pip could not install durable-bus${extra:+[$extra]}; its messages are above"
        printf '%s\n' "$pyproject $extra" >"$venv/durable_bus_installed"
        printf '%s\n' "$made" >"$venv/durable_bus_made"
    fi
    exec 9>&-
}
