// Asks, streams and watches with the NATS client of Go.
//
//	go run . MODEL PROMPT
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

type request struct {
	Model    string `json:"model"`
	Prompt   string `json:"prompt"`
	Stream   bool   `json:"stream,omitempty"`
	Priority int    `json:"priority,omitempty"`
}

type chunk struct {
	Response string `json:"response"`
}

type event struct {
	Decision struct {
		RequestID string `json:"request_id"`
		NodeID    string `json:"node_id"`
		Reason    string `json:"reason"`
	} `json:"decision"`
}

func check(msg *nats.Msg) *nats.Msg {
	if code := msg.Header.Get("Nats-Service-Error-Code"); code != "" {
		log.Fatalf("%s: %s", code, msg.Header.Get("Nats-Service-Error"))
	}
	return msg
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
	decisions := must(nc.SubscribeSync("sollol.v1.events.routing.*"))

	ask := request{Model: os.Args[1], Prompt: os.Args[2]}
	whole := check(must(nc.Request("sollol.v1.generate", must(json.Marshal(ask)), time.Minute)))
	var answer chunk
	must(0, json.Unmarshal(whole.Data, &answer))
	fmt.Println("whole   :", strings.TrimSpace(answer.Response))

	ask.Stream, ask.Priority = true, 8
	inbox := nats.NewInbox()
	chunks := must(nc.SubscribeSync(inbox))
	must(0, nc.PublishRequest("sollol.v1.generate", inbox, must(json.Marshal(ask))))
	fmt.Print("stream  :")
	for {
		msg := check(must(chunks.NextMsg(time.Minute)))
		if len(msg.Data) == 0 { // the empty message ends the stream
			break
		}
		must(0, json.Unmarshal(msg.Data, &answer))
		fmt.Print(answer.Response)
	}
	fmt.Println()

	for range 2 {
		var made event
		must(0, json.Unmarshal(must(decisions.NextMsg(10*time.Second)).Data, &made))
		fmt.Println("decision:", made.Decision.RequestID, "on", made.Decision.NodeID, "because", made.Decision.Reason)
	}
}
