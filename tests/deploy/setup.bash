# What the checks of `deploy/` share with each other, over what the load scripts share. To be sourced by bash, with
# `what` saying which check it is.
. "$(dirname "${BASH_SOURCE[0]}")/../load/setup.bash"

failures=0
# expect WHAT COMMAND...: the command succeeds.
expect() {
  local wanted=$1
  shift
  if "$@"; then
    echo "ok: $wanted"
  else
    echo "FAILED: $wanted" >&2
    failures=$((failures + 1))
  fi
}

# Ends the check: by what has failed.
conclude() {
  if [ "$failures" -gt 0 ]; then
    echo "$what: $failures failed" >&2
    exit 1
  fi
  echo "$what: all is well, after $SECONDS s"
}

# A configuration in the folder $1: http on port $2, admin on port $3, an upstream that nobody asks, one user. The
# binary $4 hashes the password. Readable for all: a container's user is another one.
configure() {
  mkdir -p "$1"
  head -c 64 /dev/urandom >"$1/token.key"
  cat >"$1/postern.toml" <<END
[listen]
http = "127.0.0.1:$2"
admin = "127.0.0.1:$3"
[token]
secret_file = "token.key"
[directory]
file = "users.toml"
[sessions]
file = ""
[upstreams.engine]
servers = ["http://127.0.0.1:1"]
[[routes]]
path = "/api"
resource = "cdr"
upstream = "engine"
[[routes]]
path = "/closed"
resource = "closed"
upstream = "engine"
[roles.user]
allow = { cdr = ["r"] }
END
  cat >"$1/users.toml" <<END
[users."$user"]
password = "$(printf '%s' "$password" | "$4" hash-password)"
role = "user"
END
  chmod 755 "$1"
  chmod 644 "$1"/*
}
user=deploy@example.org
password=deploy-test

# login PORT PASSWORD: the status of a login, its answer in login.json of the folder.
login() {
  curl -s -o "$folder/login.json" -w '%{http_code}' -H 'Content-Type: application/json' \
    -d "{\"username\":\"$user\",\"password\":\"$2\"}" "http://127.0.0.1:$1/login"
}

# status PORT PATH: that of a request with the session of the last login.
status() {
  local key token
  key=$(sed -n 's/.*"key":"\([^"]*\)".*/\1/p' "$folder/login.json")
  token=$(sed -n 's/.*"token":"\([^"]*\)".*/\1/p' "$folder/login.json")
  curl -s -o "$folder/answer" -w '%{http_code}' -H "X-Key: $key" -H "X-Access-Token: $token" "http://127.0.0.1:$1$2"
}
