#!/bin/sh
# Asks, streams and watches with the NATS command line: https://github.com/nats-io/natscli
#
# sh ask.sh MODEL PROMPT
set -eu

server="${SOLLOL_NATS:-nats://127.0.0.1:4222}"
quote() { printf '%s' "$1" | sed 's/[\\"]/\\&/g'; }
model=$(quote "$1")
prompt=$(quote "$2")

nats --server "$server" sub --count 2 --raw 'sollol.v1.events.routing.*' > "${TMPDIR:-/tmp}/decisions.$$" 2> /dev/null &
watching=$!

echo "whole:"
nats --server "$server" req --raw --timeout 60s sollol.v1.generate \
    "{\"model\": \"$model\", \"prompt\": \"$prompt\"}"

echo "stream, one message per chunk and an empty one at the end:"
nats --server "$server" req --raw --timeout 60s --wait-for-empty sollol.v1.generate \
    "{\"model\": \"$model\", \"prompt\": \"$prompt\", \"stream\": true, \"priority\": 8}"

wait "$watching"
echo "decisions:"
cat "${TMPDIR:-/tmp}/decisions.$$"
rm -f "${TMPDIR:-/tmp}/decisions.$$"
