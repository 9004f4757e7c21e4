#!/bin/sh
# Runs a private RabbitMQ with its epmd, and ends both when standard input ends: the owner
# holds the other end of it, so an owner that is gone, in whatever way, takes them along.
# All of it is one process group of its own, which keeps the terminal's Ctrl-C away.
#
# usage: supervisor.sh <rabbitmq-server> <pid file> <seconds from TERM to KILL>
server=$1
pid_file=$2
grace=$3

exec 3<&0 </dev/null

# A broker wants many files open. Beyond this, Erlang only gets slow at closing them.
ulimit -S -n 65536 2>/dev/null || ulimit -S -n "$(ulimit -H -n)"

# By itself Erlang would start epmd as a daemon, which stays for ever. The nodes of a cluster have one
# already.
named() {
    epmd -port "$ERL_EPMD_PORT" -names >/dev/null 2>&1
}
if command -v epmd >/dev/null; then
    if ! named; then
        epmd -port "$ERL_EPMD_PORT" -address "$ERL_EPMD_ADDRESS" 3<&- &
        epmd=$!
        until named; do
            kill -0 "$epmd" || exit 1
            sleep 0.1
        done
    fi
    export ERL_AFLAGS="$ERL_AFLAGS -start_epmd false"
fi

"$server" 3<&- &
vm=$!

# The script replaces itself with the VM. Where it does not, the pid file knows better.
terminate() {
    pid=$(cat "$pid_file" 2>/dev/null)
    kill -TERM "${pid:-$vm}"
}

# The lifeline. The last kill takes everything here, this script included.
(
    read -r _ <&3
    terminate
    sleep "$grace"
    kill -KILL 0
) &
exec 3<&-

trap terminate HUP INT TERM
while :; do
    wait "$vm"
    status=$?
    kill -0 "$vm" 2>/dev/null || break
done

# The VM is gone: now the epmd, the lifeline, and whatever the VM left.
trap '' TERM
kill -TERM 0
wait
exit "$status"
