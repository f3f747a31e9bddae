// Stores durable jobs and collects their answers with the NATS client of Go.
//
//	go run ./jobs MODEL PROMPT [COUNT]
package main

import (
	"bytes"
	"fmt"
	"log"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
	"sollol.example/ask/fleet"
)

const (
	limit = 10 * time.Second
	look  = 2 * time.Second
)

var ends = []string{"done", "failed", "dead", "cancelled"}

type body struct {
	Model  string `json:"model"`
	Prompt string `json:"prompt"`
}

type job struct {
	Body body `json:"body"`
}

type enqueue struct {
	JobID string `json:"job_id"`
	Job   job    `json:"job"`
}

type question struct {
	JobID      string `json:"job_id"`
	WithResult bool   `json:"with_result"`
}

type reply struct {
	Status struct {
		State string `json:"state"`
		Error struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"error"`
	} `json:"status"`
}

type whole struct {
	Response string `json:"response"`
}

// answerOf is what is known about a job, and its answer once it has one; also long after it ended.
func answerOf(nc *nats.Conn, id string) (reply, []byte) {
	inbox := nc.NewInbox()
	parts := fleet.Must(nc.SubscribeSync(inbox))
	defer parts.Unsubscribe()
	fleet.Must(0, nc.PublishRequest(fleet.On("jobs.get"), inbox, fleet.JSON(question{id, true})))
	known := fleet.Read[reply](fleet.Check(parts.NextMsg(limit)).Data)
	var answer bytes.Buffer
	for count := 1; ; count++ {
		part := fleet.Check(parts.NextMsg(limit))
		if fleet.IsEnd(part, count) {
			return known, answer.Bytes()
		}
		answer.Write(part.Data)
	}
}

func main() {
	count := 3
	if len(os.Args) > 3 {
		count = fleet.Must(strconv.Atoi(os.Args[3]))
	}
	nc := fleet.Connect()
	defer nc.Close()
	events := fleet.Must(nc.SubscribeSync(fleet.NewsOfJobs()))

	batch := "example-" + nuid.Next() // ids of your own: storing a job again is harmless
	waiting := map[string]bool{}
	for number := range count {
		id := fmt.Sprintf("%s-%d", batch, number)
		asked := enqueue{id, job{body{os.Args[1], os.Args[2]}}}
		fleet.Check(nc.Request(fleet.On("jobs.enqueue"), fleet.JSON(asked), limit))
		waiting[id] = true
	}
	fmt.Println("stored  :", count) // from here on they survive everything

	for len(waiting) > 0 {
		var ended []string
		if msg, err := events.NextMsg(look); err == nil {
			tokens := strings.Split(msg.Subject, ".")
			id, news := tokens[len(tokens)-2], tokens[len(tokens)-1]
			if waiting[id] && slices.Contains(ends, news) {
				ended = append(ended, id)
			}
		} else { // what was said while we were away is still known
			for id := range waiting {
				ended = append(ended, id)
			}
		}
		for _, id := range ended {
			known, answer := answerOf(nc, id)
			if slices.Contains(ends[1:], known.Status.State) {
				log.Fatalf("%s: %s", known.Status.Error.Code, known.Status.Error.Message)
			}
			if known.Status.State == ends[0] {
				delete(waiting, id)
				fmt.Println("answer  :", strings.TrimSpace(fleet.Read[whole](answer).Response))
			}
		}
	}
}
