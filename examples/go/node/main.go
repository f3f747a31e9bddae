// A node of the fleet whose model counts down, written after docs/node-protocol.md alone.
//
//	go run ./node [ID]
package main

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"sollol.example/ask/fleet"
)

const (
	model = "countdown:latest"
	slots = 2
	token = 10 * time.Millisecond
)

type object = map[string]any

// attempt is one start of a request here.
type attempt struct {
	ID, inbox, state, code string
	stream                 bool
	goS                    time.Duration
	decision               json.RawMessage
	kind, model            string
	count, sent            int
	stop                   chan struct{} // closed when it is to end
	end                    []*nats.Msg   // what its caller is told at last
	report                 object
}

type node struct {
	nc            *nats.Conn
	id, instance  string
	mu            sync.Mutex // for everything below
	revision, seq int
	draining      bool
	term          int
	termAt        time.Time
	running       int
	known         map[string]*attempt // an agent that lives long forgets the oldest ones
	outcomes      sync.WaitGroup
}

func main() {
	id := "go-node"
	if len(os.Args) > 1 {
		id = os.Args[1]
	}
	n := &node{id: id, instance: strings.ToLower(rand.Text()), known: map[string]*attempt{}}
	options := []nats.Option{nats.CustomInboxPrefix("_INBOX_node." + id), nats.MaxReconnects(-1)}
	if file := os.Getenv("SOLLOL_NATS_CREDS_FILE"); file != "" {
		options = append(options, nats.UserCredentials(file))
	}
	if file := os.Getenv("SOLLOL_NATS_TLS_CA_FILE"); file != "" {
		options = append(options, nats.RootCAs(file))
	}
	n.nc = fleet.Must(nats.Connect(cmp.Or(os.Getenv("SOLLOL_NATS"), nats.DefaultURL), options...))
	n.claim(true)
	n.hear("node."+id+".control", n.onControl)
	n.hear("node."+id+".cancel", func(msg *nats.Msg) { n.end(fleet.Read[struct{ Attempt_ID string }](msg.Data).Attempt_ID) })
	n.hear("node."+id+".leave", func(*nats.Msg) {})
	n.hear("node."+id+".exec", n.onExec)
	fleet.Must(n.nc.Subscribe("_INBOX_node."+id+".t.*", func(msg *nats.Msg) {
		if msg.Header.Get("Status") == "503" { // nobody listens for the answer any more
			n.end(msg.Subject[strings.LastIndex(msg.Subject, ".")+1:])
		}
	}))
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM, syscall.SIGINT)
	for beats := 1; ; beats++ {
		n.beat()
		select {
		case <-asked:
			n.leave()
			return
		case <-time.After(time.Second):
			if beats%5 == 0 {
				go n.claim(false)
			}
		}
	}
}

func (n *node) hear(what string, handle nats.MsgHandler) {
	fleet.Must(n.nc.Subscribe("sollol.v1."+what, handle))
}

// claim asks for the node's id.
func (n *node) claim(starting bool) {
	owner := object{"node_id": n.id, "instance": n.instance, "host": fleet.Must(os.Hostname())}
	msg, err := n.nc.Request("sollol.v1.claim."+n.id, fleet.JSON(object{"claim": owner, "is_starting": starting}), 7*time.Second)
	if err != nil {
		return // nobody keeps claims just now: asked again
	}
	reply := fleet.Read[struct {
		Revision int
		Owner    object
	}](msg.Data)
	if reply.Owner != nil {
		fmt.Fprintln(os.Stderr, "the id is taken:", reply.Owner)
		os.Exit(1)
	}
	n.mu.Lock()
	n.revision = cmp.Or(reply.Revision, n.revision)
	n.mu.Unlock()
}

// tell says what telemetry and load have in common, and more; the lock is held.
func (n *node) tell(what string, more object) {
	n.seq++
	running := []object{}
	for _, a := range n.known {
		if a.state == "running" || a.state == "streaming" {
			running = append(running, object{"attempt_id": a.ID, "model": a.model, "has_first_token": a.state == "streaming"})
		}
	}
	more["type"], more["node_id"], more["instance"], more["seq"] = "node."+what+".v1", n.id, n.instance, n.seq
	more["slots"], more["in_flight"], more["is_draining"] = slots, running, n.draining
	fleet.Must(0, n.nc.Publish("sollol.v1."+what+"."+n.id, fleet.JSON(more)))
}

func (n *node) beat() {
	n.mu.Lock()
	defer n.mu.Unlock()
	models := []object{{"name": model, "capabilities": []string{"completion"}}}
	n.tell("telemetry", object{
		"revision": n.revision, "installed": models, "loaded": []object{{"name": model}},
		"engine": object{"kind": "other", "url": "fake://countdown", "version": "1.0"},
	})
}

var (
	lastNumber = regexp.MustCompile(`(\d+)\D*$`)
	callers    = regexp.MustCompile(`^_INBOX(_\w+)?\.[^*> ]+$`)
	ours       = regexp.MustCompile(`^_INBOX_(node|ctl|new)\.`)
)

func (n *node) onExec(msg *nats.Msg) {
	var exec struct {
		Stream   bool
		Go_S     *float64
		Decision json.RawMessage
	}
	var decided struct {
		Attempt_ID, Instance, Model, Kind string
		Term                              int
	}
	if json.Unmarshal([]byte(msg.Header.Get("Sollol-Exec")), &exec) != nil || json.Unmarshal(exec.Decision, &decided) != nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if decided.Instance != n.instance || n.known[decided.Attempt_ID] != nil {
		return
	}
	a := &attempt{
		ID: decided.Attempt_ID, inbox: msg.Header.Get("Sollol-Reply-To"), state: "running", stream: exec.Stream,
		goS: 2 * time.Second, decision: exec.Decision, kind: decided.Kind, model: decided.Model, stop: make(chan struct{}),
	}
	if exec.Go_S != nil {
		a.goS = time.Duration(*exec.Go_S * float64(time.Second))
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
		n.tellFailure(a, "stale_term")
	case !callers.MatchString(a.inbox) || ours.MatchString(a.inbox):
		n.tellFailure(a, "forbidden")
	case n.draining:
		n.tellFailure(a, "draining")
	case n.running >= slots:
		n.tellFailure(a, "busy")
	default:
		n.known[a.ID] = a
		n.running++
		n.tell("load", object{})
		go n.serve(a)
	}
}

func (n *node) say(a *attempt, report object) {
	report["attempt_id"] = a.ID
	fleet.Must(0, n.nc.Publish("sollol.v1.attempt."+n.id+"."+a.ID, fleet.JSON(report)))
}

func failure(code string) object {
	error := object{"code": code, "message": "the node says " + code}
	if lack := lacks[code]; lack != "" {
		error["lack"] = lack
	}
	return error
}

func (n *node) tellFailure(a *attempt, code string) {
	n.say(a, object{"type": "attempt.failed.v1", "error": failure(code)})
}
