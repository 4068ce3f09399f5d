# To be sourced by bash scripts that need a server: whatever keeps the contract of tests/complement/launch, started and stopped.

# Starts LAUNCHER as NAME at IP with its data in DIR, and waits until it answers: start_server LAUNCHER NAME IP DIR
# Sets `server_pid`. A new DIR gets what the launcher expects there; one that was used before is used again.
start_server() {
  local launcher=$1 name=$2 ip=$3 dir=$4
  mkdir -p "$dir/ca" "$dir/db" "$dir/appservice"
  [ -f "$dir/ca/ca.crt" ] ||
    openssl req -x509 -newkey rsa:2048 -nodes -keyout "$dir/ca/ca.key" -out "$dir/ca/ca.crt" -subj /CN=test -days 1 2> /dev/null
  "$launcher" "$name" "$ip" "$dir" >> "$dir/log" 2>&1 &
  server_pid=$!
  local tries
  for ((tries = 0; tries < 300; tries++)); do
    curl --fail --silent --output /dev/null "http://$ip:8008/_matrix/client/versions" && return
    kill -0 "$server_pid" 2> /dev/null || break
    sleep 0.1
  done
  echo "$launcher did not start:" >&2
  tail -n 20 "$dir/log" >&2
  return 1
}

# Ends the servers with these process ids at once.
stop_servers() {
  [ $# -gt 0 ] || return 0
  kill -9 "$@" 2> /dev/null || true
  wait "$@" 2> /dev/null || true
}
