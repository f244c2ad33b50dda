#!/usr/bin/env bash
# Makes a stand-in for python:*-slim from Debian packages, where no image registry is reachable:
# standin.sh TAG PIP_CONF CA_BUNDLE. Needs root and mmdebstrap. pip works in it as it does on this machine.
set -euo pipefail
tag=$1 pip_conf=$2 ca=$3

root=$(mktemp -d)
trap 'rm -rf --one-file-system "$root"' EXIT

# "extract" unpacks only: a quarter of the time, and no maintainer script has to work here.
mmdebstrap --quiet --variant=extract \
    --include=base-files,base-passwd,bash,ca-certificates,coreutils,dash,findutils,grep,sed,python3,python3-venv \
    bookworm "$root"
chmod 755 "$root" # mktemp's 700 would shut out every user but root
cp "$root/usr/share/base-passwd/passwd.master" "$root/etc/passwd"
cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"
chroot "$root" /usr/bin/python3 -m venv /usr/local # where the official images have python and pip
if [ -f "$ca" ]; then
    cp "$ca" "$root/etc/ssl/certs/ca-certificates.crt"
fi
sed 's|^cert = .*|cert = /etc/ssl/certs/ca-certificates.crt|' "$pip_conf" >"$root/etc/pip.conf"

tar --numeric-owner -C "$root" -c . |
    "${DOCKER:-docker}" import --change 'ENV PATH=/usr/local/bin:/usr/bin:/bin' --change 'CMD ["python3"]' - "$tag"
