// Package fleet has what every program here needs: a connection with the caller's credentials, its subjects, and how
// to read an answer.
package fleet

import (
	"cmp"
	"encoding/json"
	"errors"
	"log"
	"os"
	"regexp"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
)

// Patience is how much later the answer to a deadline that has passed may come.
const Patience = 5 * time.Second

// Whoever has a file of credentials asks under the name in it, and listens for answers below that.
var inboxes = func() []string {
	file := os.Getenv("SOLLOL_NATS_CREDS_FILE")
	if file == "" {
		return nil
	}
	return regexp.MustCompile(`_INBOX_cli\.([\w-]+)`).FindStringSubmatch(string(Must(os.ReadFile(file))))
}()

// HearsDecisions is false for a client among members, which hears nobody's; those about its own requests come with the
// answers.
func HearsDecisions() bool { return inboxes == nil }

// On is the subject for a question.
func On(what string) string {
	if inboxes == nil {
		return "sollol.v1." + what
	}
	return "sollol.v1.as." + inboxes[1] + "." + what
}

// NewsOfJobs is the subject on which the caller's jobs are told of; the last two tokens are a job's id and its state.
func NewsOfJobs() string {
	if inboxes == nil {
		return "sollol.v1.events.job.*.*"
	}
	return "sollol.v1.events.job." + inboxes[1] + ".*.*"
}

// Connect makes a connection with what the environment says: a user and password, or a file of credentials.
func Connect() *nats.Conn {
	log.SetFlags(0)
	var options []nats.Option
	if inboxes != nil {
		options = append(options, nats.CustomInboxPrefix(inboxes[0]))
	}
	if user := os.Getenv("SOLLOL_NATS_USER"); user != "" {
		options = append(options, nats.UserInfo(user, os.Getenv("SOLLOL_NATS_PASSWORD")))
	}
	if file := os.Getenv("SOLLOL_NATS_CREDS_FILE"); file != "" {
		options = append(options, nats.UserCredentials(file))
	}
	if file := os.Getenv("SOLLOL_NATS_TLS_CA_FILE"); file != "" {
		options = append(options, nats.RootCAs(file))
	}
	return Must(nats.Connect(cmp.Or(os.Getenv("SOLLOL_NATS"), nats.DefaultURL), options...))
}

// Check gives the message; it ends the program when that is an error, or says that nobody is there.
func Check(msg *nats.Msg, err error) *nats.Msg {
	// the server itself says so, with an empty message: not the end of an answer
	if errors.Is(err, nats.ErrNoResponders) || err == nil && msg.Header.Get("Status") == "503" {
		log.Fatal("503: nobody answers there: is `sollol up` running?")
	}
	if err != nil {
		log.Fatal(err)
	}
	if code := msg.Header.Get("Nats-Service-Error-Code"); code != "" {
		log.Fatalf("%s: %s", code, msg.Header.Get("Nats-Service-Error"))
	}
	return msg
}

// IsEnd says whether a stream is whole with this message, after `count` others.
func IsEnd(msg *nats.Msg, count int) bool {
	if len(msg.Data) > 0 {
		return false
	}
	if msg.Header.Get("Sollol-Chunks") != strconv.Itoa(count) {
		log.Fatal("pieces of the answer were lost on the way")
	}
	return true
}

// JSON is a value as bytes.
func JSON(value any) []byte { return Must(json.Marshal(value)) }

// Read is the value in bytes.
func Read[T any](data []byte) (value T) {
	Must(0, json.Unmarshal(data, &value))
	return value
}

// Must gives the value, or ends the program.
func Must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}
