// Asks, streams and watches with the NATS client of JavaScript.
//
// npm ci && node ask.mjs MODEL PROMPT

import { connect, createInbox } from "@nats-io/transport-node";

const [model, prompt] = process.argv.slice(2);
const nc = await connect({ servers: process.env.SOLLOL_NATS ?? "nats://127.0.0.1:4222" });
const decisions = nc.subscribe("sollol.v1.events.routing.*", { max: 2 });

function check(msg) {
  const code = msg.headers?.get("Nats-Service-Error-Code");
  if (code) {
    console.error(`${code}: ${msg.headers.get("Nats-Service-Error")}`);
    process.exit(1);
  }
  return msg;
}

const body = { model, prompt };
const whole = check(await nc.request("sollol.v1.generate", JSON.stringify(body), { timeout: 60_000 }));
console.log("whole   :", whole.json().response.trim());
console.log("where   :", JSON.parse(whole.headers.get("Sollol-Decision")).node_id);

const inbox = createInbox();
const chunks = nc.subscribe(inbox, { timeout: 60_000 }); // a request may be lost with a server that stops
nc.publish("sollol.v1.generate", JSON.stringify({ ...body, stream: true, priority: 8 }), { reply: inbox });
process.stdout.write("stream  :");
for await (const msg of chunks) {
  check(msg);
  if (msg.data.length === 0) break; // the empty message ends the stream
  process.stdout.write(msg.json().response);
}
console.log();

for await (const msg of decisions) {
  const { decision } = msg.json();
  console.log("decision:", decision.request_id, "on", decision.node_id, "because", decision.reason);
}
await nc.close();
