# What the checks with other people's tools share: a gateway with the default settings over TLS, before nginx. To be
# sourced by bash from the repository's root, with `what` saying which check it is and $postern.
. tests/deploy/setup.bash
. tests/load/gateway.bash

# need TOOL...: or the check is left out.
need() {
  local tool
  for tool in "$@"; do
    command -v "$tool" >/dev/null || { echo "!! $what NOT checked: $tool is not installed" >&2; exit 77; }
  done
}

# A running gateway, its process in $gateway, a session in KEY and TOKEN.
start_gateway() {
  nginx_port=$(free_port) https=$(free_port) admin=$(free_port)
  : "${echo_port:=1}"
  cd "$folder" || exit 1
  configure_gateway
  start_nginx "$nginx_port"
  "$postern" run --config postern.toml >/dev/null 2>gateway.log &
  gateway=$!
  pids+=("$gateway")
  until_ok curl -sf "http://127.0.0.1:$admin/readyz"
  log_in
}
