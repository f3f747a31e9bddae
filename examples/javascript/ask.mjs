// Asks, streams and watches with the NATS client of JavaScript.
//
// npm ci && node ask.mjs MODEL PROMPT [SECONDS]

import { PATIENCE_MS, ask, check, connect, fail, hearsDecisions, inbox, isEnd, on } from "./fleet.mjs";

const [model, prompt, limit = "60"] = process.argv.slice(2);
const nc = await connect();
const decisions = hearsDecisions && nc.subscribe("sollol.v1.events.routing.*");

// The fleet stops working on it when we stop waiting.
const body = { model, prompt, deadline_s: Number(limit) };
const timeout = body.deadline_s * 1000 + PATIENCE_MS;
const whole = await ask(nc, "generate", body, timeout);
const where = JSON.parse(whole.headers.get("Sollol-Decision"));
console.log("whole   :", whole.json().response.trim());
console.log("where   :", where.node_id);
const asked = new Map([[where.request_id, where]]);

const reply = inbox();
const chunks = nc.subscribe(reply, { timeout });
nc.publish(on("generate"), JSON.stringify({ ...body, stream: true, priority: 8 }), { reply });
process.stdout.write("stream  :");
let count = 0;
for await (const msg of chunks) {
  if (isEnd(check(msg), count)) break;
  if (count === 0) {
    const made = JSON.parse(msg.headers.get("Sollol-Decision"));
    asked.set(made.request_id, made);
  }
  process.stdout.write(msg.json().response);
  count += 1;
}
console.log();

const late = setTimeout(() => fail("the decisions did not come"), 10_000);
function tell({ request_id, node_id, reason }) {
  if (asked.delete(request_id)) console.log("decision:", request_id, "on", node_id, "because", reason);
}
if (!hearsDecisions) [...asked.values()].forEach(tell);
else for await (const msg of decisions) {
  tell(msg.json().decision);
  if (asked.size === 0) break;
}
clearTimeout(late);
await nc.close();
