#!/bin/sh
# exec: the program itself is PID 1 then, and gets the signals that stop the container.
# The console script, not "python -m runner": that would run a module of the project that has this name.
if ! command -v alembic-job >/dev/null; then
    echo "entrypoint.sh: no alembic-job on PATH; run 'pip install alembic-job' in this image" >&2
    exit 2
fi
exec alembic-job "$@"
