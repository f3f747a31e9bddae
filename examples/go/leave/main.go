// Gives answers up with the NATS client of Go: one by leaving its inbox, another with a word to the fleet.
//
//	go run ./leave MODEL PROMPT
package main

import (
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
	"sollol.example/ask/fleet"
)

const limit = time.Minute

type request struct {
	Model     string  `json:"model"`
	Prompt    string  `json:"prompt"`
	Stream    bool    `json:"stream"`
	DeadlineS float64 `json:"deadline_s"`
}

type cancel struct {
	RequestID string `json:"request_id"`
	Secret    string `json:"secret"`
}

func main() {
	nc := fleet.Connect()
	defer nc.Close()
	body := fleet.JSON(request{os.Args[1], os.Args[2], true, limit.Seconds()})

	inbox := nc.NewInbox()
	chunks := fleet.Must(nc.SubscribeSync(inbox))
	fleet.Must(0, nc.PublishRequest(fleet.On("generate"), inbox, body))
	for range 2 {
		fleet.Check(chunks.NextMsg(limit))
	}
	fleet.Must(0, chunks.Unsubscribe()) // the node notices at its next token
	fmt.Println("left    : after 2 chunks")

	asked := cancel{nuid.Next(), nuid.Next()}
	msg := nats.NewMsg(fleet.On("generate"))
	msg.Data, msg.Reply = body, nc.NewInbox()
	msg.Header.Set("Sollol-Request-Id", asked.RequestID)
	msg.Header.Set("Sollol-Cancel-Secret", asked.Secret)
	chunks = fleet.Must(nc.SubscribeSync(msg.Reply))
	fleet.Must(0, nc.PublishMsg(msg))
	fleet.Check(chunks.NextMsg(limit))
	fleet.Must(0, nc.Publish(fleet.On("cancel"), fleet.JSON(asked)))
	code := ""
	for msg = fleet.Must(chunks.NextMsg(limit)); len(msg.Data) > 0; msg = fleet.Must(chunks.NextMsg(limit)) {
		code = msg.Header.Get("Nats-Service-Error-Code")
	}
	fmt.Println("cancel  :", code)
}
