#!/bin/sh
# Gives answers up with the NATS command line: one by leaving its inbox, another with a word to the fleet.
#
# sh leave.sh MODEL PROMPT
set -eu
. "$(dirname "$0")/fleet.sh"

limit_s=60
body="{\"model\": \"$(quote "$1")\", \"prompt\": \"$(quote "$2")\", \"deadline_s\": $limit_s, \"stream\": true}"
said="${TMPDIR:-/tmp}/said.$$"
trap 'rm -f "$said"' EXIT

ask generate "$body" "$limit_s" --replies 2 # then it is gone, which the node notices at its next token
echo "left    : after 2 chunks"

id="example-$$-$(date +%s)"
secret=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
ask generate "$body" "$limit_s" --wait-for-empty -H "Sollol-Request-Id:$id" -H "Sollol-Cancel-Secret:$secret" > "$said" 2>&1 &
until grep -q response "$said"; do sleep 0.1; done
ask cancel "{\"request_id\": \"$id\", \"secret\": \"$secret\"}" 5 > /dev/null
wait $! || true # the error is what we wait for
sed -n 's/^\(499\).*/cancel  : \1/p' "$said"
