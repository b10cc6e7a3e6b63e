#!/bin/sh
# Installs the packages of bindep.txt that are missing. Written without bindep itself, because that
# comes from the virtual environment, which needs one of these packages (python3-venv) to be made.
set -eu
cd "$(dirname "$0")/.."

missing=""
for package in $(sed 's/#.*//' bindep.txt | awk 'NF { print $1 }'); do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done
if [ -z "$missing" ]; then
    exit 0
fi

if [ "$(id -u)" = 0 ]; then
    as_root=""
elif command -v sudo >/dev/null; then
    as_root=sudo
else
    echo "missing packages:$missing" >&2
    echo "run this as root, or install them yourself: apt-get install$missing" >&2
    exit 1
fi
echo "installing:$missing"
$as_root apt-get update -qq
# shellcheck disable=SC2086  # one word each
$as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -qq -y --no-install-recommends $missing >/dev/null
