// What every program here needs: a connection with the caller's credentials, its subjects, and how to read an answer.

import { readFileSync } from "node:fs";
import { connect as connectTo, createInbox, credsAuthenticator } from "@nats-io/transport-node";

const env = process.env;
// Whoever has a file of credentials asks under the name in it, and listens for answers below that.
const creds = env.SOLLOL_NATS_CREDS_FILE && readFileSync(env.SOLLOL_NATS_CREDS_FILE);
const [inboxPrefix, name] = creds?.toString().match(/_INBOX_cli\.([\w-]+)/) ?? ["_INBOX"];

/** A client among members hears nobody's decisions; those about its own requests come with the answers. */
export const hearsDecisions = !name;

/** An answer to a deadline that has passed may come so much later. */
export const PATIENCE_MS = 5_000;

/** The subject for a question. */
export const on = (what) => (name ? `sollol.v1.as.${name}.${what}` : `sollol.v1.${what}`);

/** The subject on which the caller's jobs are told of; the last two tokens are a job's id and its state. */
export const newsOfJobs = name ? `sollol.v1.events.job.${name}.*.*` : "sollol.v1.events.job.*.*";

export const inbox = () => createInbox(inboxPrefix);

/** A connection with what the environment says: a user and password, or a file of credentials. */
export function connect() {
  const options = { servers: env.SOLLOL_NATS ?? "nats://127.0.0.1:4222", inboxPrefix };
  if (env.SOLLOL_NATS_USER) Object.assign(options, { user: env.SOLLOL_NATS_USER, pass: env.SOLLOL_NATS_PASSWORD });
  if (creds) options.authenticator = credsAuthenticator(creds);
  if (env.SOLLOL_NATS_TLS_CA_FILE) options.tls = { caFile: env.SOLLOL_NATS_TLS_CA_FILE };
  return connectTo(options);
}

const NOBODY = "503: nobody answers there: is `sollol up` running?";

export function fail(text) {
  console.error(text);
  process.exit(1);
}

/** The message; ends the program when it is an error, or says that nobody is there. */
export function check(msg) {
  const code = msg.headers?.get("Nats-Service-Error-Code");
  if (code) fail(`${code}: ${msg.headers.get("Nats-Service-Error")}`);
  // the server itself says so, with an empty message: not the end of an answer
  if (msg.headers?.code === 503) fail(NOBODY);
  return msg;
}

/** The answer to a question that has one. */
export async function ask(nc, what, body, timeout) {
  try {
    return check(await nc.request(on(what), JSON.stringify(body), { timeout }));
  } catch (error) {
    return fail(error.isNoResponders?.() ? NOBODY : `${error}`);
  }
}

/** Whether a stream is whole with this message, after `count` others. */
export function isEnd(msg, count) {
  if (msg.data.length > 0) return false;
  if (msg.headers?.get("Sollol-Chunks") !== String(count)) fail("pieces of the answer were lost on the way");
  return true;
}
