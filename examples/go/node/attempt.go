package main

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"sollol.example/ask/fleet"
)

// statuses of the errors that callers of a stream may be told.
var statuses = map[string]int{"cancelled": 499, "actor_stopped": 503}

// lacks says what another node may have.
var lacks = map[string]string{"unknown_model": "model", "engine_rejected": "path"}

// end makes an attempt end soon.
func (n *node) end(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if a := n.known[id]; a != nil {
		n.endWith(a, "cancelled")
	}
}

// endWith makes an attempt end with a code; the lock is held.
func (n *node) endWith(a *attempt, code string) {
	if a.code == "" && (a.state == "running" || a.state == "streaming") {
		a.code = code
		close(a.stop)
	}
}

// serve takes an attempt to its end.
func (n *node) serve(a *attempt) {
	began, code := time.Now(), ""
	switch {
	case !n.permitted(a, began):
		code = "cancelled"
	case a.kind != "chat" && a.kind != "generate":
		code = "engine_rejected"
	case a.model != model:
		code = "unknown_model"
	default:
		code = n.answer(a, began)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	figures := object{"actual_s": time.Since(began).Seconds(), "output_tokens": a.sent}
	spoken := a.state == "streaming"
	if a.code != "" {
		code = a.code
	}
	outcome := object{"type": "outcome.v1", "decision": a.decision, "figures": figures, "status": "success"}
	a.report = object{"type": "attempt.done.v1", "figures": figures}
	if code != "" {
		a.report = object{"type": "attempt.failed.v1", "error": failure(code), "is_streaming": spoken}
		outcome["code"], outcome["status"] = code, "cancelled"
		if lack := lacks[code]; lack != "" {
			outcome["status"], outcome["lack"] = "client_error", lack
		}
	}
	if a.stream && spoken {
		if code != "" {
			a.end = append(a.end, n.message(a, fleet.JSON(failure(code)), nats.Header{
				"Nats-Service-Error": {code}, "Nats-Service-Error-Code": {strconv.Itoa(statuses[code])},
			}))
		}
		a.sent += len(a.end)
		a.end = append(a.end, n.message(a, nil, nats.Header{
			"Sollol-Chunks": {strconv.Itoa(a.sent)}, "Sollol-Figures": {string(fleet.JSON(figures))},
		}))
	}
	a.state = map[bool]string{true: "ended_spoken", false: "ended_silent"}[spoken]
	n.running--
	n.tellEnd(a)
	n.tell("load", object{})
	n.outcomes.Add(1)
	go n.tellOutcome(a, fleet.JSON(outcome))
}

// permitted asks the dispatcher whether an attempt may speak, and returns when that is settled.
func (n *node) permitted(a *attempt, began time.Time) bool {
	subject := "sollol.v1.attempt." + n.id + "." + a.ID
	question := object{"type": "attempt.accepted.v1", "attempt_id": a.ID, "instance": n.instance}
	for within := a.goS; ; within = 2 * time.Second {
		msg, err := n.nc.Request(subject, fleet.JSON(question), within)
		if errors.Is(err, nats.ErrNoResponders) { // the dispatcher is gone: nobody else can answer the caller
			return true
		}
		select {
		case <-a.stop:
			return false
		default:
		}
		if err == nil {
			isGo := fleet.Read[struct{ Go bool }](msg.Data).Go
			// the engine would be asked meanwhile, and its first token may come late
			if !isGo || question["type"] == "attempt.start.v1" || time.Since(began) < a.goS {
				return isGo
			}
		}
		question = object{"type": "attempt.start.v1", "attempt_id": a.ID}
	}
}

// answer says what the model says, in Ollama's form; it returns why it broke off.
func (n *node) answer(a *attempt, began time.Time) string {
	first := nats.Header{"Sollol-Decision": {string(a.decision)}}
	if a.stream {
		n.say(a, object{"type": "attempt.first_token.v1", "ttft_s": time.Since(began).Seconds()})
	}
	text := ""
	for left := a.count; left >= 0; left-- {
		piece := fmt.Sprint(left, " ")
		text += piece
		if a.stream {
			n.speak(a, fleet.JSON(n.chunk(a, piece, left == 0)), first)
			first = nats.Header{}
		}
		select {
		case <-a.stop:
			return "cancelled"
		case <-time.After(token):
		}
	}
	if !a.stream {
		figures := object{"actual_s": time.Since(began).Seconds(), "output_tokens": a.count + 1}
		first.Set("Sollol-Figures", string(fleet.JSON(figures)))
		n.speak(a, fleet.JSON(n.chunk(a, text, true)), first)
	}
	return ""
}

func (n *node) chunk(a *attempt, text string, done bool) object {
	if a.kind == "generate" {
		return object{"model": a.model, "response": text, "done": done}
	}
	return object{"model": a.model, "message": object{"role": "assistant", "content": text}, "done": done}
}

func (n *node) message(a *attempt, data []byte, headers nats.Header) *nats.Msg {
	return &nats.Msg{Subject: a.inbox, Reply: "_INBOX_node." + n.id + ".t." + a.ID, Data: data, Header: headers}
}

func (n *node) speak(a *attempt, data []byte, headers nats.Header) {
	fleet.Must(0, n.nc.PublishMsg(n.message(a, data, headers)))
	n.mu.Lock()
	defer n.mu.Unlock()
	a.state = "streaming"
	a.sent++
}

// tellEnd says how an attempt ended, first to its caller; the lock is held.
func (n *node) tellEnd(a *attempt) {
	for _, msg := range a.end {
		fleet.Must(0, n.nc.PublishMsg(msg))
	}
	n.say(a, a.report)
}

// tellOutcome says it until it is stored.
func (n *node) tellOutcome(a *attempt, outcome []byte) {
	defer n.outcomes.Done()
	for {
		msg := nats.NewMsg("sollol.v1.outcome." + n.id)
		msg.Data = outcome
		msg.Header.Set("Nats-Msg-Id", a.ID)
		reply, err := n.nc.RequestMsg(msg, 1500*time.Millisecond)
		if err == nil {
			stored := fleet.Read[struct {
				Stream string
				Error  any
			}](reply.Data)
			if stored.Stream != "" && stored.Error == nil {
				return
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (n *node) onControl(msg *nats.Msg) {
	n.mu.Lock()
	defer n.mu.Unlock()
	asked := struct {
		Type, Attempt_ID string
		Is_Draining      *bool
	}{Type: "control.ping.v1"}
	if len(msg.Data) > 0 {
		asked = fleet.Read[struct {
			Type, Attempt_ID string
			Is_Draining      *bool
		}](msg.Data)
	}
	reply := object{"type": "control.reply.v1", "node_id": n.id, "instance": n.instance, "in_flight": n.running}
	switch asked.Type {
	case "control.ping.v1":
	case "control.drain.v1":
		n.draining = asked.Is_Draining == nil || *asked.Is_Draining
		n.tell("load", object{})
	case "control.attempt.v1":
		reply["attempt_state"] = "unknown"
		if a := n.known[asked.Attempt_ID]; a != nil {
			reply["attempt_state"] = a.state
			if a.report != nil {
				n.tellEnd(a)
			}
			if len(a.end) > 0 {
				reply["chunks"] = a.sent
			}
		}
	default:
		headers := nats.Header{"Nats-Service-Error": {"bad_request"}, "Nats-Service-Error-Code": {"400"}}
		fleet.Must(0, msg.RespondMsg(&nats.Msg{Data: fleet.JSON(failure("bad_request")), Header: headers}))
		return
	}
	reply["is_draining"] = n.draining
	fleet.Must(0, msg.Respond(fleet.JSON(reply)))
}

// leave finishes what runs, and says the last word.
func (n *node) leave() {
	n.mu.Lock()
	n.draining = true
	n.tell("load", object{})
	n.mu.Unlock()
	for until := time.Now().Add(10 * time.Second); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		n.mu.Lock()
		running := n.running
		n.mu.Unlock()
		if running == 0 {
			break
		}
	}
	n.mu.Lock()
	for _, a := range n.known {
		n.endWith(a, map[bool]string{true: "actor_stopped", false: "draining"}[a.state == "streaming"])
	}
	n.mu.Unlock()
	stored := make(chan struct{})
	go func() { n.outcomes.Wait(); close(stored) }()
	select {
	case <-stored:
	case <-time.After(3 * time.Second):
	}
	time.Sleep(200 * time.Millisecond) // what is on its way is refused
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tell("load", object{"has_left": true})
	fleet.Must(0, n.nc.Flush())
}
