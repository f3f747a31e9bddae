# What every script here needs: the caller's credentials, its subjects, and how to read an answer; to be read by them.

# Whoever has a file of credentials asks under the name in it, and listens for answers below that.
caller=$([ -z "${SOLLOL_NATS_CREDS_FILE:-}" ] || sed -n 's/.*_INBOX_cli\.\([A-Za-z0-9_-]*\).*/\1/p' "$SOLLOL_NATS_CREDS_FILE")
on() { printf 'sollol.v1.%s%s' "${caller:+as.$caller.}" "$1"; }

# The command with what the environment says: a user and password, or a file of credentials. With `as=exec` it takes the
# place of its shell, so that whoever ends that shell ends it.
fleet() {
    ${as:-} nats --server "${SOLLOL_NATS:-nats://127.0.0.1:4222}" ${caller:+--inbox-prefix "_INBOX_cli.$caller"} \
        ${SOLLOL_NATS_USER:+--user "$SOLLOL_NATS_USER" --password "$SOLLOL_NATS_PASSWORD"} \
        ${SOLLOL_NATS_CREDS_FILE:+--creds "$SOLLOL_NATS_CREDS_FILE"} \
        ${SOLLOL_NATS_TLS_CA_FILE:+--tlsca "$SOLLOL_NATS_TLS_CA_FILE"} "$@"
}

# Prints the messages that answer a question. Fails with the text of an error, when nobody is there, and when the end
# is missing: that of one answer, or of a stream (`--wait-for-empty`) the empty message with `Sollol-Chunks`.
#
# ask WHAT BODY SECONDS [FLAG OF `nats req`...]
ask() {
    asked_on=$(on "$1") asked=$2 patience_s=$(($3 + 5)) # the answer to a deadline that has passed comes a little later
    shift 3
    fleet req --no-templates "$asked_on" "$asked" --timeout "${patience_s}s" --reply-timeout "${patience_s}s" "$@" 2>&1 |
        awk -v streams="$*" -v told="${told:-/dev/null}" '
            /No responders are available/ { print "503: nobody answers there: is `sollol up` running?" > "/dev/stderr"; bad = 1 }
            $2 == "Nats-Service-Error-Code:" { code = $3 }
            $2 == "Nats-Service-Error:" { text = $0; sub(/.*Nats-Service-Error: /, "", text) }
            $2 == "Sollol-Chunks:" { ended = 1 }
            $2 == "Sollol-Decision:" { sub(/.*Sollol-Decision: /, ""); print >> told; close(told); next }
            /^[{]/ && code { print code ": " text > "/dev/stderr"; bad = 1 }
            /^[{]/ && !code { print; fflush(); ended = ended || streams !~ /wait-for-empty/ }
            END { if (!bad && !ended) print "no whole answer came in time" > "/dev/stderr"; exit bad || !ended }'
}

quote() { printf '%s' "$1" | sed 's/[\\"]/\\&/g'; }
