// Asks, streams and watches with the NATS client of Go.
//
//	go run . MODEL PROMPT [SECONDS]
package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"sollol.example/ask/fleet"
)

type request struct {
	Model     string  `json:"model"`
	Prompt    string  `json:"prompt"`
	DeadlineS float64 `json:"deadline_s"` // the fleet stops working on it when we stop waiting
	Stream    bool    `json:"stream,omitempty"`
	Priority  int     `json:"priority,omitempty"`
}

type chunk struct {
	Response string `json:"response"`
}

type decision struct {
	RequestID string `json:"request_id"`
	NodeID    string `json:"node_id"`
	Reason    string `json:"reason"`
}

type event struct {
	Decision decision `json:"decision"`
}

func main() {
	ask := request{Model: os.Args[1], Prompt: os.Args[2], DeadlineS: 60}
	if len(os.Args) > 3 {
		ask.DeadlineS = fleet.Must(strconv.ParseFloat(os.Args[3], 64))
	}
	timeout := time.Duration(ask.DeadlineS*float64(time.Second)) + fleet.Patience
	nc := fleet.Connect()
	defer nc.Close()
	var decisions *nats.Subscription
	if fleet.HearsDecisions() {
		decisions = fleet.Must(nc.SubscribeSync("sollol.v1.events.routing.*"))
	}

	whole := fleet.Check(nc.Request(fleet.On("generate"), fleet.JSON(ask), timeout))
	where := fleet.Read[decision]([]byte(whole.Header.Get("Sollol-Decision")))
	fmt.Println("whole   :", strings.TrimSpace(fleet.Read[chunk](whole.Data).Response))
	fmt.Println("where   :", where.NodeID)
	asked := map[string]decision{where.RequestID: where}

	ask.Stream, ask.Priority = true, 8
	inbox := nc.NewInbox()
	chunks := fleet.Must(nc.SubscribeSync(inbox))
	fleet.Must(0, nc.PublishRequest(fleet.On("generate"), inbox, fleet.JSON(ask)))
	fmt.Print("stream  :")
	for count := 0; ; count++ {
		msg := fleet.Check(chunks.NextMsg(timeout))
		if fleet.IsEnd(msg, count) {
			break
		}
		if count == 0 {
			made := fleet.Read[decision]([]byte(msg.Header.Get("Sollol-Decision")))
			asked[made.RequestID] = made
		}
		fmt.Print(fleet.Read[chunk](msg.Data).Response)
	}
	fmt.Println()

	tell := func(made decision) {
		if _, isOurs := asked[made.RequestID]; isOurs {
			delete(asked, made.RequestID)
			fmt.Println("decision:", made.RequestID, "on", made.NodeID, "because", made.Reason)
		}
	}
	for _, made := range asked {
		if !fleet.HearsDecisions() {
			tell(made)
		}
	}
	for len(asked) > 0 {
		tell(fleet.Read[event](fleet.Must(decisions.NextMsg(10 * time.Second)).Data).Decision)
	}
}
