# Installs a server from Debian's or Ubuntu's packages, for private ones only: the system's
# own service, which the package would start, stays off. Or a tool of the tests, which has none.
#
# usage: install.sh rabbitmq-server|postgresql|chromium-driver|nodejs|npm|python3-venv
set -eu
package=$1
export DEBIAN_FRONTEND=noninteractive

made=
trap 'rm -f $made' EXIT
trap 'exit 130' HUP INT TERM

policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    made=$policy
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

# PostgreSQL's would make databases for its service first.
if [ "$package" = postgresql ]; then
    settings=/etc/postgresql-common/createcluster.d
    made="$made $settings/event-relay.conf"
    mkdir -p "$settings"
    echo 'create_main_cluster = false' >"$settings/event-relay.conf"
fi

apt-get -q update || echo "the package lists could not be updated; trying with those there are"
apt-get -q install -y --no-install-recommends -o DPkg::Lock::Timeout=120 "$package"

case $package in
    chromium-driver | nodejs | npm | python3-venv) exit 0 ;;
esac

# Nor at the next boot.
if command -v systemctl >/dev/null; then
    systemctl disable "$package.service"
elif command -v update-rc.d >/dev/null; then
    update-rc.d "$package" disable
fi

if [ -d /run/systemd/system ] && systemctl --quiet is-active "$package.service"; then
    echo "the package started the system's own service too, which the relay does not need;" \
        "to stop it: systemctl disable --now $package"
fi
