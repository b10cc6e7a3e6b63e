#!/bin/sh
# Installs the packages of bindep.txt that are missing. Written without bindep itself, because that
# comes from the virtual environment, which needs one of these packages (python3-venv) to be made.
#
#     tools/system-packages.sh              all but those of the profile `openstack`
#     tools/system-packages.sh openstack    those of the profile `openstack`
#
# No service is started by their installation: the lab starts its own, on its own ports.
set -eu
cd "$(dirname "$0")/.."
profile=${1:-}

wanted() {
    sed 's/#.*//' bindep.txt | if [ "$profile" = openstack ]; then
        grep -F '[openstack '
    else
        grep -vF '[openstack '
    fi | awk 'NF { print $1 }'
}

missing=""
for package in $(wanted); do
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

# Debian's way to forbid that an installed service is started. What stood there comes back.
policy=/usr/sbin/policy-rc.d
restore() {
    $as_root rm -f $policy
    if [ -e $policy.before-ovs ]; then
        $as_root mv $policy.before-ovs $policy
    fi
}
trap restore EXIT
trap 'exit 1' HUP INT TERM
if [ -e $policy ] && [ ! -e $policy.before-ovs ]; then
    $as_root mv $policy $policy.before-ovs
fi
printf '#!/bin/sh\nexit 101\n' | $as_root tee $policy >/dev/null
$as_root chmod 755 $policy

echo "installing:$missing"
$as_root apt-get update -qq
# shellcheck disable=SC2086  # one word each
$as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 \
    install -qq -y --no-install-recommends $missing >/dev/null
