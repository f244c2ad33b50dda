#!/bin/sh
# Migrates the bookshop on a throw-away SQLite file, through the container's entrypoint.
# Needs `alembic-job` on PATH: `make demo` puts it there.
set -eu
cd "$(dirname "$0")/.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

export ALEMBIC_JOB_CONFIG=examples/bookshop/alembic.ini
export ALEMBIC_JOB_DATABASE_URL="sqlite:///$scratch/bookshop.db"

heading() {
    printf '\n== %s\n\n' "$1"
}

# expect CODE COMMAND...: runs it and says its exit code; another one than CODE ends the demo.
expect() {
    wanted=$1
    shift
    printf '$ %s\n' "$*"
    code=0
    "$@" || code=$?
    printf '(exit code %s)\n' "$code"
    [ "$code" -eq "$wanted" ] || { printf 'demo: expected exit code %s\n' "$wanted" >&2; exit 1; }
}

export ALEMBIC_JOB_LOG_FORMAT=text

heading 'A new database: every revision runs'
expect 0 ./entrypoint.sh upgrade

heading 'Once more: nothing to do, and no lock is taken'
expect 0 ./entrypoint.sh upgrade

heading 'A mistake has its own exit code and a hint'
expect 32 ./entrypoint.sh upgrade nowhere

export ALEMBIC_JOB_LOG_FORMAT=json

heading 'What a log pipeline gets: JSON lines, of which this is the last'
expect 0 ./entrypoint.sh upgrade >"$scratch/lines"
sed -n 1p "$scratch/lines"
tail -n 2 "$scratch/lines"
