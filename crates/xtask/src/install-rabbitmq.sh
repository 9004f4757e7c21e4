# Installs the server from Debian's or Ubuntu's packages, for private brokers only: the
# system's own service, which the package would start on every interface, stays off.
set -eu
export DEBIAN_FRONTEND=noninteractive

policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

apt-get -q update || echo "the package lists could not be updated; trying with those there are"
apt-get -q install -y --no-install-recommends -o DPkg::Lock::Timeout=120 rabbitmq-server

# Nor at the next boot.
if command -v systemctl >/dev/null; then
    systemctl disable rabbitmq-server.service
elif command -v update-rc.d >/dev/null; then
    update-rc.d rabbitmq-server disable
fi

if [ -d /run/systemd/system ] && systemctl --quiet is-active rabbitmq-server.service; then
    echo "the package started the system's own RabbitMQ service too, which the relay does not need;" \
        "to stop it: systemctl disable --now rabbitmq-server"
fi
