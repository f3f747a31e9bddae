// A node of the fleet whose model counts down, written after docs/node-protocol.md alone.
//
//	go run ./node [ID]
package main

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"os"
	"os/signal"
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

type node struct {
	nc            *nats.Conn
	id, instance  string
	changed, back chan struct{} // its load changed; its connection came back
	outcomes      sync.WaitGroup
	mu            sync.Mutex // for everything below
	revision, seq int
	draining      bool
	term, running int
	termAt        time.Time
	backAt        time.Time
	known         map[string]*attempt // an agent that lives long forgets the oldest ones
}

func main() {
	id := "go-node"
	if len(os.Args) > 1 {
		id = os.Args[1]
	}
	n := &node{id: id, instance: strings.ToLower(rand.Text()), known: map[string]*attempt{}}
	n.changed, n.back = make(chan struct{}, 1), make(chan struct{}, 1)
	n.connect()
	n.claim(true)
	for what, handle := range map[string]nats.MsgHandler{
		"control": n.onControl,
		"cancel":  func(msg *nats.Msg) { n.end(fleet.Read[struct{ Attempt_ID string }](msg.Data).Attempt_ID, "cancelled") },
		"leave":   func(*nats.Msg) {}, // the server heeds it
		"exec":    n.onExec,
	} {
		fleet.Must(n.nc.Subscribe("sollol.v1.node."+id+"."+what, handle))
	}
	fleet.Must(n.nc.Subscribe("_INBOX_node."+id+".t.*", func(msg *nats.Msg) {
		if msg.Header.Get("Status") == "503" { // nobody listens for the answer any more
			n.end(msg.Subject[strings.LastIndex(msg.Subject, ".")+1:], "cancelled")
		}
	}))
	go n.keepClaim()
	n.work()
}

// connect makes a connection that keeps nothing to say while it is broken.
func (n *node) connect() {
	options := []nats.Option{
		nats.CustomInboxPrefix("_INBOX_node." + n.id), nats.MaxReconnects(-1), nats.ReconnectWait(200 * time.Millisecond),
		nats.ReconnectBufSize(-1),
		nats.DisconnectErrHandler(func(*nats.Conn, error) { n.endAll("connection_lost", "connection_lost") }),
		nats.ReconnectHandler(func(*nats.Conn) {
			n.mu.Lock()
			n.backAt = time.Now()
			n.mu.Unlock()
			tick(n.back)
		}),
	}
	if file := os.Getenv("SOLLOL_NATS_CREDS_FILE"); file != "" {
		options = append(options, nats.UserCredentials(file))
	}
	if file := os.Getenv("SOLLOL_NATS_TLS_CA_FILE"); file != "" {
		options = append(options, nats.RootCAs(file))
	}
	n.nc = fleet.Must(nats.Connect(cmp.Or(os.Getenv("SOLLOL_NATS"), nats.DefaultURL), options...))
}

// claim asks for the node's id.
func (n *node) claim(starting bool) {
	owner := object{"node_id": n.id, "instance": n.instance, "host": fleet.Must(os.Hostname())}
	var reply struct {
		Revision int
		Owner    object
	}
	if msg, err := n.ask("claim", object{"claim": owner, "is_starting": starting}, 7*time.Second); err == nil {
		reply = fleet.Read[struct {
			Revision int
			Owner    object
		}](msg.Data)
	}
	if reply.Owner != nil {
		fmt.Fprintln(os.Stderr, "the id is taken:", reply.Owner)
		os.Exit(1)
	}
	n.mu.Lock()
	n.revision = cmp.Or(reply.Revision, n.revision)
	n.mu.Unlock()
}

func (n *node) keepClaim() {
	for {
		n.mu.Lock()
		wait := 5 * time.Second
		if n.revision == 0 {
			wait = time.Second / 2
		}
		n.mu.Unlock()
		select {
		case <-n.back:
		case <-time.After(wait):
		}
		n.claim(false)
	}
}

// work tells of the node until it is asked to end.
func (n *node) work() {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM, syscall.SIGINT)
	beat := time.NewTicker(time.Second)
	for {
		n.mu.Lock()
		n.tell("telemetry", object{
			"revision": n.revision, "loaded": []object{{"name": model}},
			"installed": []object{{"name": model, "capabilities": []string{"completion"}}},
			"engine":    object{"kind": "other", "url": "fake://countdown", "version": "1.0"},
		})
		n.mu.Unlock()
		for isBeat := false; !isBeat; {
			select {
			case <-asked:
				n.leave()
				return
			case <-beat.C:
				isBeat = true
			case <-n.changed:
				n.mu.Lock()
				n.tell("load", object{})
				n.mu.Unlock()
				time.Sleep(50 * time.Millisecond) // no more than 20 a second
			}
		}
	}
}

// tell says what telemetry and load have in common, and more; the lock is held.
func (n *node) tell(what string, more object) {
	n.seq++
	running := []object{}
	for _, a := range n.known {
		if a.isRunning() {
			running = append(running, object{"attempt_id": a.ID, "model": a.model, "has_first_token": a.state == "streaming"})
		}
	}
	more["type"], more["node_id"], more["instance"], more["seq"] = "node."+what+".v1", n.id, n.instance, n.seq
	more["slots"], more["in_flight"], more["is_draining"] = slots, running, n.draining
	n.nc.Publish("sollol.v1."+what+"."+n.id, fleet.JSON(more)) // lost while there is no connection
}

func (n *node) ask(what string, question object, within time.Duration) (*nats.Msg, error) {
	return n.nc.Request("sollol.v1."+what+"."+n.id, fleet.JSON(question), within)
}

// leave finishes what runs, and says the last word.
func (n *node) leave() {
	n.mu.Lock()
	n.draining = true
	n.tell("load", object{})
	n.mu.Unlock()
	n.within(10*time.Second, func() bool { return n.running == 0 })
	n.endAll("draining", "actor_stopped")
	n.within(3*time.Second, func() bool { return n.running == 0 })
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

func (n *node) within(limit time.Duration, is func() bool) {
	for until, so := time.Now().Add(limit), false; !so && time.Now().Before(until); time.Sleep(10 * time.Millisecond) {
		n.mu.Lock()
		so = is()
		n.mu.Unlock()
	}
}

// tick notes that something happened, once until it is looked at.
func tick(what chan struct{}) {
	select {
	case what <- struct{}{}:
	default:
	}
}
