// Every call of the `openai` package that Ollama serves, through the gateway.

import assert from 'node:assert/strict';
import http from 'node:http';
import { test } from 'node:test';
import OpenAI from 'openai';
import { collect, embedder, headers, idle, isEmulated, model, pixel, schema, url, user, weather, words } from './world.mjs';

const open = (settings = {}) => new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', defaultHeaders: headers, ...settings });
const client = open();

test('chats whole', async () => {
  const answer = await client.chat.completions.create({ model, messages: user('count 3') });
  assert.deepEqual(words(answer.choices[0].message.content), ['2', '1', '0']);
  assert.equal(answer.choices[0].finish_reason, 'stop');
  assert.equal(answer.usage.completion_tokens, 4);
});

test('chats streaming with usage', async () => {
  const stream = await client.chat.completions.create({ model, messages: user('count 3'), stream: true, stream_options: { include_usage: true } });
  const chunks = await collect(stream);
  assert.deepEqual(words(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('')), ['2', '1', '0']);
  assert.equal(chunks.at(-1).usage.completion_tokens, 4);
  assert.equal(new Set(chunks.map((chunk) => chunk.id)).size, 1);
});

test('the stream helper ends with the whole answer', async () => {
  const runner = client.chat.completions.stream({ model, messages: user('count 3') });
  assert.deepEqual(words(await runner.finalContent()), ['2', '1', '0']);
});

test('obeys the limit by either name', async () => {
  for (const limit of [{ max_tokens: 5 }, { max_completion_tokens: 5 }]) {
    const answer = await client.chat.completions.create({ model, messages: user('count 50'), ...limit });
    assert.equal(answer.choices[0].finish_reason, 'length');
    assert.equal(answer.usage.completion_tokens, 5);
  }
});

test('calls tools', async () => {
  const messages = user('please call');
  const answer = await client.chat.completions.create({ model, messages, tools: [weather] });
  const [call] = answer.choices[0].message.tool_calls;
  assert.equal(call.function.name, 'get_weather');
  assert.equal(typeof JSON.parse(call.function.arguments), 'object');
  const next = [...messages, answer.choices[0].message, { role: 'tool', tool_call_id: call.id, content: 'rain, then count 2' }];
  assert.ok((await client.chat.completions.create({ model, messages: next, tools: [weather] })).choices[0].message.content);
});

test('calls tools streaming', async () => {
  const runner = client.chat.completions.stream({ model, messages: user('please call'), tools: [weather] });
  const { choices } = await runner.finalChatCompletion();
  assert.equal(choices[0].message.tool_calls[0].function.name, 'get_weather');
});

test('gives structured output', async () => {
  const format = { type: 'json_schema', json_schema: { name: 'answer', schema } };
  const answer = await client.chat.completions.create({ model, messages: user('please think'), response_format: format });
  assert.equal(typeof JSON.parse(answer.choices[0].message.content).ok, 'boolean');
});

test('sends images', async () => {
  const content = [{ type: 'text', text: 'count 2' }, { type: 'image_url', image_url: { url: `data:image/png;base64,${pixel}` } }];
  const asked = open({ maxRetries: 0 }).chat.completions.create({ model, messages: [{ role: 'user', content }] });
  if (isEmulated) assert.ok((await asked).choices[0].message.content);
  else await assert.rejects(asked, /image/);
});

test('completes whole and streaming', async () => {
  const whole = await client.completions.create({ model, prompt: 'count 3', max_tokens: 10 });
  assert.deepEqual(words(whole.choices[0].text), ['2', '1', '0']);
  const parts = await collect(await client.completions.create({ model, prompt: 'count 3', max_tokens: 10, stream: true }));
  assert.deepEqual(words(parts.map((part) => part.choices[0]?.text ?? '').join('')), ['2', '1', '0']);
});

test('embeds in both encodings', async () => {
  const packed = await client.embeddings.create({ model: embedder, input: ['a cat', 'a dog'] });
  const plain = await client.embeddings.create({ model: embedder, input: 'a cat', encoding_format: 'float' });
  assert.equal(packed.data.length, 2);
  assert.equal(packed.data[0].embedding.length, plain.data[0].embedding.length);
  // a llama.cpp server embeds a text a little differently when its cache holds the beginning
  if (isEmulated) assert.ok(Math.abs(packed.data[0].embedding[0] - plain.data[0].embedding[0]) < 1e-4);
});

test('lists and retrieves models', async () => {
  assert.ok((await collect(await client.models.list())).some((one) => one.id.replace(':latest', '') === model));
  assert.equal((await client.models.retrieve(model)).object, 'model');
  await assert.rejects(client.models.retrieve('nope'), OpenAI.NotFoundError);
});

test('responds whole and streaming', async () => {
  const whole = await client.responses.create({ model, input: 'count 3' });
  assert.deepEqual(words(whole.output_text), ['2', '1', '0']);
  const kinds = (await collect(await client.responses.create({ model, input: 'count 3', stream: true }))).map((event) => event.type);
  assert.equal(kinds[0], 'response.created');
  assert.equal(kinds.at(-1), 'response.completed');
});

test('errors have their class and are not retried in vain', async () => {
  let asked = 0;
  const counting = open({ maxRetries: 2, fetch: (...args) => (asked++, fetch(...args)) });
  await assert.rejects(counting.chat.completions.create({ model: 'nope', messages: user('x') }), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.type, 'not_found_error');
    assert.match(error.message, /model 'nope' not found/);
    return true;
  });
  await assert.rejects(counting.chat.completions.create({ model, messages: [] , stream: true }), OpenAI.BadRequestError).catch((error) => {
    if (isEmulated) throw error; // a llama.cpp server takes an empty conversation
  });
  assert.equal(asked, 2);
});

test('retries when told to, after the time it was told', async () => {
  const refusing = http.createServer((request, response) => {
    refusing.seen = (refusing.seen ?? 0) + 1;
    if (refusing.seen === 1) {
      response.writeHead(429, { 'retry-after': '1', 'x-should-retry': 'true', 'content-type': 'application/json' });
      response.end(JSON.stringify({ error: { message: 'wait', type: 'rate_limit_error' } }));
      return;
    }
    const onward = http.request(`${url}${request.url}`, { method: request.method, headers: { ...request.headers, host: 'localhost' } }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    request.pipe(onward);
  });
  await new Promise((resolve) => refusing.listen(0, '127.0.0.1', resolve));
  try {
    const retrying = open({ baseURL: `http://127.0.0.1:${refusing.address().port}/v1`, maxRetries: 1 });
    const answer = await retrying.chat.completions.create({ model, messages: user('count 2') });
    assert.deepEqual(words(answer.choices[0].message.content), ['1', '0']);
    assert.equal(refusing.seen, 2);
  } finally {
    refusing.close();
    refusing.closeAllConnections();
  }
});

test('aborts a stream, and the node becomes idle', async () => {
  const stream = await client.chat.completions.create({ model, messages: user('count 999'), stream: true });
  let seen = 0;
  for await (const _ of stream) if (++seen === 2) stream.controller.abort();
  assert.ok(seen < 900);
  await idle();
});

test('aborts a request before its answer', async () => {
  const controller = new AbortController();
  const asked = client.chat.completions.create({ model, messages: user('count 999') }, { signal: controller.signal });
  controller.abort();
  await assert.rejects(asked, OpenAI.APIUserAbortError);
  await idle();
});
