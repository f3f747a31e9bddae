#!/bin/sh
# Stores durable jobs and collects their answers with the NATS command line: https://github.com/nats-io/natscli
#
# sh jobs.sh MODEL PROMPT [COUNT]
set -eu
. "$(dirname "$0")/fleet.sh"

count="${3:-3}"
body="{\"model\": \"$(quote "$1")\", \"prompt\": \"$(quote "$2")\"}"
batch="example-$$-$(date +%s)" # ids of your own: storing a job again is harmless

number=0
while [ "$number" -lt "$count" ]; do
    ask jobs.enqueue "{\"job_id\": \"$batch-$number\", \"job\": {\"body\": $body}}" 10 > /dev/null
    number=$((number + 1))
done
echo "stored  : $count" # from here on they survive everything

while [ "$number" -gt 0 ]; do
    id="$batch-$((number - 1))"
    # one message about the job, its answer once it has one, and an empty message
    known=$(ask jobs.get "{\"job_id\": \"$id\", \"with_result\": true}" 10 --wait-for-empty)
    case $known in
        *'"state":"done"'*) printf '%s\n' "$known" | sed -n '2s/^/answer  : /p'; number=$((number - 1)) ;;
        *'"state":"queued"'* | *'"state":"running"'*) sleep 0.2 ;;
        *) printf '%s\n' "$known" | sed 's/.*"error":{"code":"\([a-z_]*\)".*/\1/' >&2; exit 1 ;;
    esac
done
