#!/bin/sh
# Asks, streams and watches with the NATS command line: https://github.com/nats-io/natscli
#
# sh ask.sh MODEL PROMPT [SECONDS]
set -eu
. "$(dirname "$0")/fleet.sh"

limit_s="${3:-60}"
# The fleet stops working on it when we stop waiting.
body="\"model\": \"$(quote "$1")\", \"prompt\": \"$(quote "$2")\", \"deadline_s\": $limit_s"
made="${TMPDIR:-/tmp}/decisions.$$"

watching=
trap 'kill $watching 2> /dev/null || true; rm -f "$made"' EXIT
if [ -z "$caller" ]; then
    { as=exec; fleet sub 'sollol.v1.events.routing.*'; } > "$made" 2>&1 &
    watching=$!
    until grep -q Subscribing "$made"; do sleep 0.1; done
else
    told=$made # a client among members hears nobody's decisions; those about its own requests come with the answers
fi

echo "whole   :"
ask generate "{$body}" "$limit_s"

echo "stream  :"
ask generate "{$body, \"stream\": true, \"priority\": 8}" "$limit_s" --wait-for-empty

for _ in 1 2 3 4 5 6 7 8 9 10; do
    [ "$(grep -c '^{' "$made")" -ge 2 ] && break
    sleep 0.5
done
grep '^{' "$made" | sed 's/^/decision: /'
