# To be sourced by bash scripts whose servers reach each other by name: a network of their own, so that several runs do not meet.

# Runs a command where only loopback addresses exist and hs1, hs2, ... are names of 127.0.1.1, 127.0.1.2, ...; whatever it
# starts ends with it: isolated WORK COMMAND... (WORK gets the files that stand for those of /etc.)
isolated() {
  local etc=$1/etc names
  names=$(dirname "${BASH_SOURCE[0]}")/names.py
  shift
  mkdir -p "$etc"
  { echo '127.0.0.1 localhost host.docker.internal'; for n in 1 2 3 4 5 6 7 8 9; do echo "127.0.1.$n hs$n"; done; } > "$etc/hosts"
  echo 'nameserver 127.0.0.1' > "$etc/resolv.conf"
  local user_namespace=''
  [ "$(id -u)" = 0 ] || user_namespace=--map-root-user
  # shellcheck disable=SC2016,SC2086 # the inner shell expands; no argument at all for root
  unshare $user_namespace --net --mount --pid --fork --kill-child --mount-proc bash -c '
    set -e
    etc=$1 names=$2; shift 2
    ip link set lo up
    # A wide range, so that few servers get a port, and so the name, of one that was there before with another key.
    echo 9000 65535 > /proc/sys/net/ipv4/ip_local_port_range
    mount --bind "$etc/hosts" /etc/hosts
    mount --bind "$etc/resolv.conf" "$(realpath /etc/resolv.conf)"
    python3 "$names" &
    "$@"' isolated "$etc" "$(realpath "$names")" "$@"
}
