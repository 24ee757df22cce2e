#!/usr/bin/env bash
# Makes what config/postern.toml needs for development: gateway.crt and gateway.key (self-signed, for localhost), token.key
# (a random HS256 key), and the folder of the session store. What is there already stays. Needs openssl.
set -euo pipefail
cd "$(dirname "$0")"
umask 077

if [ -e gateway.key ] && [ -e gateway.crt ]; then
  echo "certs/gateway.crt and gateway.key are there already"
else
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 \
    -subj "/CN=localhost" -addext "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1" \
    -keyout gateway.key -out gateway.crt 2>/dev/null
  chmod 644 gateway.crt
  echo "made certs/gateway.crt and gateway.key, for localhost, good for a year"
fi

if [ -e token.key ]; then
  echo "certs/token.key is there already"
else
  openssl rand -hex 64 > token.key
  echo "made certs/token.key"
fi

mkdir -p ../data
