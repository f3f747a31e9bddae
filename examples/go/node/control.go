package main

import (
	"github.com/nats-io/nats.go"
	"sollol.example/ask/fleet"
)

type question struct {
	Type, Attempt_ID string
	Is_Draining      *bool
}

func (n *node) onControl(msg *nats.Msg) {
	n.mu.Lock()
	defer n.mu.Unlock()
	asked := question{Type: "control.ping.v1"}
	if len(msg.Data) > 0 {
		asked = fleet.Read[question](msg.Data)
	}
	reply := object{"type": "control.reply.v1", "node_id": n.id, "instance": n.instance, "in_flight": n.running}
	switch asked.Type {
	case "control.ping.v1":
	case "control.drain.v1":
		n.draining = asked.Is_Draining == nil || *asked.Is_Draining
		tick(n.changed)
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
	case "control.set.v1", "control.load.v1", "control.unload.v1":
		respondError(msg, "forbidden")
		return
	case "control.pull.v1", "control.engine.v1", "control.blob.v1": // whoever asks takes many messages
		respondError(msg, "forbidden")
		fleet.Must(0, msg.Respond(nil))
		return
	default:
		respondError(msg, "bad_request")
		return
	}
	reply["is_draining"] = n.draining
	fleet.Must(0, msg.Respond(fleet.JSON(reply)))
}

func respondError(msg *nats.Msg, code string) {
	fleet.Must(0, msg.RespondMsg(&nats.Msg{Data: fleet.JSON(failure(code)), Header: errorHeader(code)}))
}
