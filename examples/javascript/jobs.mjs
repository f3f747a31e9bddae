// Submits a durable job, follows it and fetches its answer with the NATS client of JavaScript.
//
// npm ci && node jobs.mjs MODEL PROMPT

import { connect, createInbox, headers } from "@nats-io/transport-node";

const [model, prompt] = process.argv.slice(2);
const nc = await connect({ servers: process.env.SOLLOL_NATS ?? "nats://127.0.0.1:4222" });
const id = `example-${crypto.randomUUID().slice(0, 8)}`; // an id of your own: submitting it again is harmless
const events = nc.subscribe(`sollol.v1.events.job.${id}.*`);

const own = headers();
own.set("Nats-Msg-Id", id);
const job = { body: { model, prompt } };
const ack = (await nc.request(`sollol.v1.jobs.submit.5.${id}`, JSON.stringify(job), { headers: own })).json();
if (ack.error) throw new Error(ack.error.description);
console.log("stored  :", id, "in", ack.stream); // from here on it survives everything

let news;
for await (const msg of events) {
  ({ news } = msg.json());
  console.log("news    :", news);
  if (["done", "failed", "dead", "cancelled"].includes(news)) break;
}

const inbox = createInbox();
const parts = nc.subscribe(inbox);
nc.publish("sollol.v1.jobs.get", JSON.stringify({ job_id: id, with_result: true }), { reply: inbox });
let status;
const answer = [];
for await (const msg of parts) {
  if (msg.data.length === 0) break; // the empty message is the end
  if (status === undefined) ({ status } = msg.json());
  else answer.push(msg.data);
}
await nc.close();
if (news !== "done") {
  console.error(`${status.error.code}: ${status.error.message}`);
  process.exit(1);
}
console.log("answer  :", JSON.parse(Buffer.concat(answer).toString()).response.trim());
