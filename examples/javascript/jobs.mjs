// Stores durable jobs and collects their answers with the NATS client of JavaScript.
//
// npm ci && node jobs.mjs MODEL PROMPT [COUNT]

import { ask, check, connect, fail, inbox, isEnd, newsOfJobs, on } from "./fleet.mjs";

const [model, prompt, count = "3"] = process.argv.slice(2);
const ENDS = ["done", "failed", "dead", "cancelled"];
const LOOK_MS = 2_000;
const timeout = 10_000;
const nc = await connect();

/** What is known about a job, and its answer once it has one; also long after it ended. */
async function answerOf(job_id) {
  const reply = inbox();
  const parts = nc.subscribe(reply, { timeout });
  nc.publish(on("jobs.get"), JSON.stringify({ job_id, with_result: true }), { reply });
  const heard = [];
  for await (const msg of parts) {
    if (isEnd(check(msg), heard.length)) break;
    heard.push(msg);
  }
  const [first, ...rest] = heard;
  return { status: first.json().status, answer: Buffer.concat(rest.map((msg) => msg.data)).toString() };
}

const events = nc.subscribe(newsOfJobs);
const batch = `example-${crypto.randomUUID().slice(0, 8)}`; // ids of your own: storing a job again is harmless
const waiting = new Set(Array.from({ length: Number(count) }, (_, number) => `${batch}-${number}`));
for (const job_id of waiting) await ask(nc, "jobs.enqueue", { job_id, job: { body: { model, prompt } } }, timeout);
console.log("stored  :", waiting.size); // from here on they survive everything

async function collect(ids) {
  for (const id of ids) {
    if (!waiting.has(id)) continue;
    const { status, answer } = await answerOf(id);
    if (ENDS.slice(1).includes(status.state)) fail(`${status.error?.code}: ${status.error?.message}`);
    if (status.state !== "done" || !waiting.delete(id)) continue;
    console.log("answer  :", JSON.parse(answer).response.trim());
    if (waiting.size === 0) events.unsubscribe();
  }
}

const look = setInterval(() => collect([...waiting]), LOOK_MS); // what was said while we were away is still known
for await (const msg of events) {
  const [id, news] = msg.subject.split(".").slice(-2);
  if (ENDS.includes(news)) await collect([id]);
}
clearInterval(look);
await nc.close();
