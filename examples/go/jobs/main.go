// Submits a durable job, follows it and fetches its answer with the NATS client of Go.
//
//	go run ./jobs MODEL PROMPT
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

type job struct {
	Body struct {
		Model  string `json:"model"`
		Prompt string `json:"prompt"`
	} `json:"body"`
}

type reply struct {
	Status struct {
		Error struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"error"`
	} `json:"status"`
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func main() {
	log.SetFlags(0)
	url := os.Getenv("SOLLOL_NATS")
	if url == "" {
		url = "nats://127.0.0.1:4222"
	}
	nc := must(nats.Connect(url))
	defer nc.Close()
	id := fmt.Sprintf("example-%x", time.Now().UnixNano()) // an id of your own: submitting it again is harmless
	events := must(nc.SubscribeSync("sollol.v1.events.job." + id + ".*"))

	var asked job
	asked.Body.Model, asked.Body.Prompt = os.Args[1], os.Args[2]
	js := must(nc.JetStream())
	ack := must(js.Publish("sollol.v1.jobs.submit.5."+id, must(json.Marshal(asked)), nats.MsgId(id)))
	fmt.Println("stored  :", id, "in", ack.Stream) // from here on it survives everything

	var event struct {
		News string `json:"news"`
	}
	for !strings.Contains("done failed dead cancelled", event.News) || event.News == "" {
		must(0, json.Unmarshal(must(events.NextMsg(time.Minute)).Data, &event))
		fmt.Println("news    :", event.News)
	}

	inbox := nats.NewInbox()
	parts := must(nc.SubscribeSync(inbox))
	question := fmt.Sprintf(`{"job_id": %q, "with_result": true}`, id)
	must(0, nc.PublishRequest("sollol.v1.jobs.get", inbox, []byte(question)))
	var known reply
	must(0, json.Unmarshal(must(parts.NextMsg(10*time.Second)).Data, &known))
	var answer bytes.Buffer
	for {
		part := must(parts.NextMsg(10 * time.Second))
		if len(part.Data) == 0 { // the empty message is the end
			break
		}
		answer.Write(part.Data)
	}
	if event.News != "done" {
		log.Fatalf("%s: %s", known.Status.Error.Code, known.Status.Error.Message)
	}
	var whole struct {
		Response string `json:"response"`
	}
	must(0, json.Unmarshal(answer.Bytes(), &whole))
	fmt.Println("answer  :", strings.TrimSpace(whole.Response))
}
