#!/usr/bin/env bash
# Makes a certificate, its key and a token key for development beside this script: gateway.crt, gateway.key, token.key.
# None of them belongs into git. Needs openssl.
set -euo pipefail
cd "$(dirname "$0")"
umask 077
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -subj "/CN=localhost" \
  -addext "subjectAltName=DNS:localhost,IP:127.0.0.1" -keyout gateway.key -out gateway.crt 2>/dev/null
[ -e token.key ] || openssl rand -base64 48 > token.key
echo "made: $PWD/gateway.crt gateway.key token.key"
