package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"sollol.example/ask/fleet"
)

// attempt is one start of a request here.
type attempt struct {
	ID, inbox, ticket, state, code string
	stream                         bool
	goS, deadline                  time.Duration
	decision                       json.RawMessage
	kind, model                    string
	count, sent                    int
	began                          time.Time
	stop                           chan struct{} // closed when it is to end
	end                            []*nats.Msg   // what its caller is told at last
	report                         object
}

func (a *attempt) isRunning() bool { return a.state == "running" || a.state == "streaming" }

var (
	lastNumber = regexp.MustCompile(`(\d+)\D*$`)
	callers    = regexp.MustCompile(`^_INBOX(_\w+)?\.[^*> ]+$`)
	ours       = regexp.MustCompile(`^_INBOX_(node|ctl|new)\.`)
	closed     = regexp.MustCompile(`^/api/(pull|push|create|copy|delete|blobs)\b`)
)

// lacks says what another node may have.
var lacks = map[string]string{"unknown_model": "model", "engine_rejected": "path"}

func (n *node) onExec(msg *nats.Msg) {
	exec := struct {
		Stream           bool
		Go_S, Deadline_S float64
		Path, Ticket     string
		Decision         json.RawMessage
	}{Go_S: 2, Deadline_S: 600}
	decided := struct {
		Attempt_ID, Instance, Model, Kind string
		Term                              int
	}{Kind: "generate"}
	if json.Unmarshal([]byte(msg.Header.Get("Sollol-Exec")), &exec) != nil || json.Unmarshal(exec.Decision, &decided) != nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if decided.Instance != n.instance || n.known[decided.Attempt_ID] != nil {
		return
	}
	a := &attempt{
		ID: decided.Attempt_ID, inbox: msg.Header.Get("Sollol-Reply-To"), ticket: exec.Ticket, state: "running",
		stream: exec.Stream, goS: seconds(exec.Go_S), deadline: seconds(exec.Deadline_S), decision: exec.Decision,
		kind: decided.Kind, model: decided.Model, began: time.Now(), stop: make(chan struct{}),
	}
	if found := lastNumber.FindSubmatch(msg.Data); found != nil {
		a.count = fleet.Must(strconv.Atoi(string(found[1])))
	}
	stale := decided.Term < n.term && time.Since(n.termAt) < 15*time.Second
	if !stale {
		n.term, n.termAt = decided.Term, time.Now()
	}
	switch {
	case stale:
		n.refuse(a, "stale_term")
	case !callers.MatchString(a.inbox) || ours.MatchString(a.inbox) || closed.MatchString(exec.Path):
		n.refuse(a, "forbidden")
	case n.draining:
		n.refuse(a, "draining")
	case n.running >= slots:
		n.refuse(a, "busy")
	default:
		n.known[a.ID] = a
		n.running++
		tick(n.changed)
		go n.serve(a)
	}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// end makes an attempt end soon.
func (n *node) end(id, code string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if a := n.known[id]; a != nil && a.code == "" && a.isRunning() {
		a.code = code
		close(a.stop)
	}
}

// endAll makes all attempts end: with one code those that have not spoken, with another those that stream.
func (n *node) endAll(silent, streaming string) {
	codes := map[string]string{}
	n.mu.Lock()
	for id, a := range n.known {
		codes[id] = map[bool]string{true: streaming, false: silent}[a.state == "streaming"]
	}
	n.mu.Unlock()
	for id, code := range codes {
		n.end(id, code)
	}
}

// serve takes an attempt to its end.
func (n *node) serve(a *attempt) {
	defer time.AfterFunc(a.deadline, func() { n.end(a.ID, "deadline_exceeded") }).Stop()
	code := ""
	switch {
	case !n.permitted(a):
		code = "cancelled"
	case a.kind != "chat" && a.kind != "generate":
		code = "engine_rejected"
	case a.model != model:
		code = "unknown_model"
	default:
		n.answer(a)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if a.code != "" {
		code = a.code
	}
	spoken := a.state == "streaming"
	outcome := object{"type": "outcome.v1", "decision": a.decision, "figures": a.figures(), "status": "success"}
	a.report = object{"type": "attempt.done.v1", "figures": a.figures()}
	if code != "" {
		a.report = object{"type": "attempt.failed.v1", "error": failure(code), "is_streaming": spoken}
		outcome["code"], outcome["status"] = code, "cancelled"
		if lacks[code] != "" {
			outcome["status"] = "client_error"
		}
	}
	if a.stream && spoken {
		if code != "" {
			a.end = append(a.end, n.message(a, fleet.JSON(failure(code)), errorHeader(code)))
		}
		a.sent += len(a.end)
		header := nats.Header{"Sollol-Chunks": {strconv.Itoa(a.sent)}, "Sollol-Figures": {string(fleet.JSON(a.figures()))}}
		a.end = append(a.end, n.message(a, nil, header))
	}
	a.state = map[bool]string{true: "ended_spoken", false: "ended_silent"}[spoken]
	n.running--
	if code == "connection_lost" {
		go n.tellEndLater(a)
	} else {
		n.tellEnd(a)
	}
	tick(n.changed)
	n.outcomes.Add(1)
	go n.tellOutcome(a, fleet.JSON(outcome))
}

func (a *attempt) figures() object {
	return object{"actual_s": time.Since(a.began).Seconds(), "output_tokens": a.sent}
}

// permitted asks the dispatcher whether an attempt may speak, and returns when that is settled.
func (n *node) permitted(a *attempt) bool {
	question := object{"type": "attempt.accepted.v1", "attempt_id": a.ID, "instance": n.instance}
	for within := a.goS; ; within = 2 * time.Second {
		msg, err := n.nc.Request("sollol.v1.attempt."+n.id+"."+a.ID, fleet.JSON(question), within)
		n.mu.Lock()
		settled := time.Since(n.backAt) > 3*time.Second
		n.mu.Unlock()
		select {
		case <-a.stop:
			return false
		default:
		}
		if errors.Is(err, nats.ErrNoResponders) && settled { // the dispatcher is gone: nobody else can answer the caller
			return true
		}
		if err == nil {
			isGo := fleet.Read[struct{ Go bool }](msg.Data).Go
			// the engine would be asked meanwhile, and its first token may come late
			if !isGo || question["type"] == "attempt.start.v1" || time.Since(a.began) < a.goS {
				return isGo
			}
		} else {
			time.Sleep(10 * time.Millisecond)
		}
		question = object{"type": "attempt.start.v1", "attempt_id": a.ID}
	}
}

// answer says what the model says, in Ollama's form, until it is to end.
func (n *node) answer(a *attempt) {
	first := nats.Header{"Sollol-Decision": {string(a.decision)}}
	if a.stream {
		n.say(a, object{"type": "attempt.first_token.v1", "ttft_s": time.Since(a.began).Seconds()})
	}
	text := ""
	for left := a.count; left >= 0; left-- {
		piece := fmt.Sprint(left, " ")
		text += piece
		if a.stream {
			n.speak(a, a.chunk(piece, left == 0), first)
			first = nats.Header{}
		}
		select {
		case <-a.stop:
			return
		case <-time.After(token):
		}
	}
	if !a.stream {
		first.Set("Sollol-Figures", string(fleet.JSON(a.figures())))
		n.speak(a, a.chunk(text, true), first)
	}
}

func (a *attempt) chunk(text string, done bool) object {
	if a.kind == "generate" {
		return object{"model": a.model, "response": text, "done": done}
	}
	return object{"model": a.model, "message": object{"role": "assistant", "content": text}, "done": done}
}

func (n *node) message(a *attempt, data []byte, header nats.Header) *nats.Msg {
	return &nats.Msg{Subject: a.inbox, Reply: "_INBOX_node." + n.id + ".t." + a.ID, Data: data, Header: header}
}

func (n *node) speak(a *attempt, chunk object, header nats.Header) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if a.code == "" && n.nc.PublishMsg(n.message(a, fleet.JSON(chunk), header)) == nil {
		a.state = "streaming"
		a.sent++
	}
}

// tellEnd says how an attempt ended, first to its caller; the lock is held.
func (n *node) tellEnd(a *attempt) {
	for _, msg := range a.end {
		n.nc.PublishMsg(msg)
	}
	n.say(a, a.report)
}

// tellEndLater says it once the connection is back; among members, the server has to be asked for leave again.
func (n *node) tellEndLater(a *attempt) {
	n.within(time.Hour, n.nc.IsConnected)
	for try := 0; len(a.end) > 0 && try < 100; try++ {
		msg, err := n.ask("leave", object{"inbox": a.inbox, "ticket": a.ticket}, 2*time.Second)
		if err == nil && fleet.Read[struct{ Is_Given bool }](msg.Data).Is_Given {
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tellEnd(a)
}

// tellOutcome says it until it is stored.
func (n *node) tellOutcome(a *attempt, outcome []byte) {
	defer n.outcomes.Done()
	for ; ; time.Sleep(100 * time.Millisecond) {
		msg := nats.NewMsg("sollol.v1.outcome." + n.id)
		msg.Data = outcome
		msg.Header.Set("Nats-Msg-Id", a.ID)
		reply, err := n.nc.RequestMsg(msg, 1500*time.Millisecond)
		if err != nil {
			continue
		}
		stored := fleet.Read[struct {
			Stream string
			Error  any
		}](reply.Data)
		if stored.Stream != "" && stored.Error == nil {
			return
		}
	}
}

func (n *node) say(a *attempt, report object) {
	report["attempt_id"] = a.ID
	n.nc.Publish("sollol.v1.attempt."+n.id+"."+a.ID, fleet.JSON(report))
}

func (n *node) refuse(a *attempt, code string) {
	n.say(a, object{"type": "attempt.failed.v1", "error": failure(code)})
}

func failure(code string) object {
	told := object{"code": code, "message": "the node says " + code}
	if lack := lacks[code]; lack != "" {
		told["lack"] = lack
	}
	return told
}

func errorHeader(code string) nats.Header {
	status := map[string]string{"cancelled": "499", "bad_request": "400", "forbidden": "403", "deadline_exceeded": "504"}[code]
	if status == "" {
		status = "503"
	}
	return nats.Header{"Nats-Service-Error": {code}, "Nats-Service-Error-Code": {status}}
}
