// Gives answers up with the NATS client of JavaScript: one by leaving its inbox, another with a word to the fleet.
//
// npm ci && node leave.mjs MODEL PROMPT

import { headers } from "@nats-io/transport-node";
import { check, connect, inbox, on } from "./fleet.mjs";

const [model, prompt] = process.argv.slice(2);
const timeout = 60_000;
const nc = await connect();
const body = JSON.stringify({ model, prompt, stream: true, deadline_s: timeout / 1000 });

let reply = inbox();
let chunks = nc.subscribe(reply, { max: 2, timeout });
nc.publish(on("generate"), body, { reply });
for await (const msg of chunks) check(msg); // after two it unsubscribes; the node notices at its next token
console.log("left    : after 2 chunks");

const own = headers();
const asked = { request_id: crypto.randomUUID(), secret: crypto.randomUUID() };
own.set("Sollol-Request-Id", asked.request_id);
own.set("Sollol-Cancel-Secret", asked.secret);
reply = inbox();
chunks = nc.subscribe(reply, { timeout });
nc.publish(on("generate"), body, { reply, headers: own });
let code, count = 0;
for await (const msg of chunks) {
  if (count++ === 0) {
    check(msg);
    nc.publish(on("cancel"), JSON.stringify(asked));
  }
  code = msg.headers?.get("Nats-Service-Error-Code") || code;
  if (msg.data.length === 0) break;
}
console.log("cancel  :", code);
await nc.close();
