# A gateway for long runs, over TLS in front of a real nginx and an echo server for WebSockets. To be sourced by bash after
# setup.bash, with $postern, $python and the ports: $nginx_port, $echo_port, $https, $admin.
password=endurance

# new_certificate: another key and certificate, put in place by rename as an ACME client does.
new_certificate() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout new.key -out new.crt -days 2 \
    -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 2>/dev/null
  # A rename each: in between the two do not fit, which a reload has to bear.
  mv new.key gateway.key
  mv new.crt gateway.crt
}

# routes_and_roles N: another route and another right each time.
routes_and_roles() {
  cat >routes.new <<TOML
[[routes]]
path = "/api"
resource = "cdr"
upstream = "engine"
[[routes]]
path = "/reload-$1"
resource = "r$1"
upstream = "engine"
[[routes]]
path = "/sockets"
resource = "cdr"
upstream = "echo"
[[routes]]
path = "/upload"
resource = "cdr"
upstream = "echo"
[roles.user]
allow = { cdr = ["r", "c"], "r$1" = ["r"] }
TOML
  mv routes.new routes.toml
}

configure_gateway() {
  new_certificate
  head -c 64 /dev/urandom >token.key
  cat >postern.toml <<TOML
include = ["routes.toml"]
[listen]
https = "127.0.0.1:$https"
admin = "127.0.0.1:$admin"
[tls]
cert_file = "gateway.crt"
key_file = "gateway.key"
[token]
secret_file = "token.key"
[login]
max_failures = 1000000
[directory]
file = "users.toml"
[sessions]
file = "sessions.db"
[upstreams.engine]
servers = ["http://127.0.0.1:$nginx_port"]
[upstreams.echo]
servers = ["http://127.0.0.1:$echo_port"]
TOML
  routes_and_roles 0
  printf '[users."load@example.org"]\na1 = "%s"\nrole = "user"\n' "$(a1 load example.org "$password")" >users.toml
  chmod 600 users.toml token.key gateway.key
}

# Sets KEY and TOKEN to those of a new session.
log_in() {
  local answer
  answer=$(curl -sfk -H 'Content-Type: application/json' \
    -d "{\"username\":\"load@example.org\",\"password\":\"$password\"}" "https://127.0.0.1:$https/login") || return 1
  KEY=$(jq -r .key <<<"$answer") TOKEN=$(jq -r .token <<<"$answer")
  export KEY TOKEN
}

# Requests and errors of wrk, as "answered errors".
wrk_result() { awk '/^RESULT / { print $2, $3 }' "$1"; }

# The same of h2load; what is not 2xx is an error.
h2load_result() {
  awk '/^requests:/ { done = $6; failed = $10; errored = $12; timeout = $14 } /^status codes:/ { good = $3 }
    END { print good, done - good + failed + errored + timeout }' "$1"
}

# What the gateway's own log holds against it. A certificate and its key are two renames: a reload in between is refused,
# which is as it should be.
log_faults() {
  grep -E '"level":"ERROR"|panicked|^postern: ' "$@" |
    grep -vE 'the key does not belong to the certificate|"the configuration was refused; the running one stays"' || true
}
