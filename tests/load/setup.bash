# What the load scripts share: a folder that goes away, programs that end with it, free ports, a real nginx. To be
# sourced by bash.
PATH=$PATH:/usr/sbin
folder=$(mktemp -d)
pids=()
cleanup() {
  [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
  wait 2>/dev/null || true
  rm -rf "$folder"
}
trap cleanup EXIT

# A port that nothing listens on.
free_port() {
  local port
  while port=$((20000 + RANDOM % 12000)); (: >"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
  echo "$port"
}

# Waits until the command succeeds, at most 15 s.
until_ok() {
  local tries=1500
  until "$@" >/dev/null 2>&1; do
    tries=$((tries - 1))
    if [ "$tries" -eq 0 ]; then
      echo "gave up waiting for: $*" >&2
      cat "$folder"/*.log >&2 || true
      return 1
    fi
    sleep 0.01
  done
}

# a1 USER DOMAIN PASSWORD
a1() { printf '%s' "$1:$2:$3" | md5sum | cut -d' ' -f1; }

# An nginx on $1 that answers "ok", /api/large with half a MiB, and complains in nginx.log of the folder.
start_nginx() {
  mkdir -p "$folder/api" && head -c 524288 /dev/zero >"$folder/api/large"
  chmod 755 "$folder"
  cat >"$folder/nginx.conf" <<END
daemon off;
master_process off;
pid nginx.pid;
error_log nginx.log warn;
events { worker_connections 1024; }
http {
  access_log off;
  keepalive_requests 10000000;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  server { listen 127.0.0.1:$1; location / { return 200 "ok"; } location = /api/large { root .; } }
}
END
  nginx -p "$folder" -c nginx.conf -e nginx.log 2>/dev/null &
  pids+=($!)
  until_ok curl -sf "http://127.0.0.1:$1/"
}
