#!/bin/sh
# Submits a durable job, waits for it and fetches its answer with the NATS command line: https://github.com/nats-io/natscli
#
# sh jobs.sh MODEL PROMPT
set -eu

server="${SOLLOL_NATS:-nats://127.0.0.1:4222}"
quote() { printf '%s' "$1" | sed 's/[\\"]/\\&/g'; }
model=$(quote "$1")
prompt=$(quote "$2")
id="example-$$-$(date +%s)" # an id of your own: submitting it again is harmless

nats --server "$server" req --raw -H "Nats-Msg-Id:$id" "sollol.v1.jobs.submit.5.$id" \
    "{\"body\": {\"model\": \"$model\", \"prompt\": \"$prompt\"}}"
echo "stored  : $id" # from here on it survives everything

news=queued
while [ "$news" = queued ] || [ "$news" = running ]; do
    news=$(nats --server "$server" req --raw sollol.v1.jobs.get "{\"job_id\": \"$id\"}" |
        sed -n 's/.*"state":"\([a-z]*\)".*/\1/p')
    echo "news    : $news"
    sleep 0.5
done

echo "answer, after one message about the job, and an empty message at the end:"
nats --server "$server" req --raw --wait-for-empty sollol.v1.jobs.get "{\"job_id\": \"$id\", \"with_result\": true}"
