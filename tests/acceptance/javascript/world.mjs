// What both suites need: where the gateway is, which node is to answer, and what the tests ask.

export const url = process.env.SOLLOL_URL;
export const node = process.env.SOLLOL_NODE;
export const isEmulated = node === 'emulated';
export const headers = { 'X-Sollol-Node-Id': node, 'X-Sollol-Strict': 'true' };
export const model = 'countdown';
export const embedder = isEmulated ? 'nomic-embed-text' : 'countdown';
export const schema = { type: 'object', properties: { ok: { type: 'boolean' } }, required: ['ok'] };
export const weather = {
  type: 'function',
  function: {
    name: 'get_weather',
    description: 'The weather of a city',
    parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
  },
};
export const pixel =
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==';

export const user = (content) => [{ role: 'user', content }];
export const words = (text) => text.trim().split(/\s+/);

export async function collect(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
}

/** Resolves once the node has nothing to do; fails after ten seconds. */
export async function idle() {
  const deadline = Date.now() + 10_000;
  for (;;) {
    const views = (await (await fetch(`${url}/api/dashboard`)).json()).nodes.nodes;
    const view = views.find((one) => one.node_id === node);
    const running = view.telemetry.in_flight ?? []; // what is zero or empty is left out
    if (running.length === 0 && (view.in_flight ?? 0) === 0) return;
    if (Date.now() > deadline) throw new Error(`still in flight: ${JSON.stringify(view)}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
