// Every call of the `ollama` package that Ollama serves itself, through the gateway.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Ollama } from 'ollama';
import { collect, embedder, headers, idle, isEmulated, model, pixel, schema, url, user, weather, words } from './world.mjs';

const client = new Ollama({ host: url, headers });
const onOllama = { skip: isEmulated ? false : 'this engine has no models to manage' };

test('generates whole', async () => {
  const answer = await client.generate({ model, prompt: 'count 4' });
  assert.deepEqual(words(answer.response), ['3', '2', '1', '0']);
  assert.equal(answer.done, true);
  assert.equal(answer.eval_count, 5);
});

test('generates streaming', async () => {
  const parts = await collect(await client.generate({ model, prompt: 'count 4', stream: true }));
  assert.deepEqual(words(parts.map((part) => part.response).join('')), ['3', '2', '1', '0']);
  assert.deepEqual(parts.map((part) => part.done), [...Array(parts.length - 1).fill(false), true]);
});

test('generates with system, options and without a template', async () => {
  const limited = await client.generate({ model, prompt: 'count 50', system: 'be brief', options: { num_predict: 5, temperature: 0 } });
  assert.equal(limited.done_reason, 'length');
  const raw = await client.generate({ model, prompt: 'count 3', raw: true });
  assert.deepEqual(words(raw.response), ['2', '1', '0']);
});

test('an empty prompt loads', async () => {
  assert.equal((await client.generate({ model, prompt: '' })).done_reason, 'load');
});

test('chats whole', async () => {
  const answer = await client.chat({ model, messages: user('count 3') });
  assert.equal(answer.message.role, 'assistant');
  assert.deepEqual(words(answer.message.content), ['2', '1', '0']);
});

test('chats streaming', async () => {
  const parts = await collect(await client.chat({ model, messages: user('count 3'), stream: true }));
  assert.deepEqual(words(parts.map((part) => part.message.content).join('')), ['2', '1', '0']);
  assert.equal(parts.at(-1).done_reason, 'stop');
});

test('thinks', async () => {
  const whole = await client.chat({ model, messages: user('please think'), think: true });
  assert.ok(whole.message.thinking);
  const parts = await collect(await client.chat({ model, messages: user('please think'), think: true, stream: true }));
  assert.ok(parts.some((part) => part.message.thinking));
});

test('calls tools and takes their results', async () => {
  const messages = user('please call');
  const { message } = await client.chat({ model, messages, tools: [weather] });
  assert.equal(message.tool_calls[0].function.name, 'get_weather');
  assert.equal(typeof message.tool_calls[0].function.arguments, 'object');
  const next = [...messages, message, { role: 'tool', content: 'rain, then count 2', tool_name: 'get_weather' }];
  assert.ok((await client.chat({ model, messages: next, tools: [weather] })).message.content);
});

test('calls tools streaming', async () => {
  const parts = await collect(await client.chat({ model, messages: user('please call'), tools: [weather], stream: true }));
  const calls = parts.flatMap((part) => part.message.tool_calls ?? []);
  assert.deepEqual(calls.map((call) => call.function.name), ['get_weather']);
});

test('gives structured output', async () => {
  const answer = await client.chat({ model, messages: user('please think'), format: schema });
  assert.equal(typeof JSON.parse(answer.message.content).ok, 'boolean');
});

test('sends images', async () => {
  const messages = [{ role: 'user', content: 'count 2', images: [pixel] }];
  const bytes = Uint8Array.from(Buffer.from(pixel, 'base64'));
  if (isEmulated) {
    assert.deepEqual(words((await client.chat({ model, messages })).message.content), ['1', '0']);
    assert.deepEqual(words((await client.generate({ model, prompt: 'count 2', images: [bytes] })).response), ['1', '0']);
  } else {
    await assert.rejects(client.chat({ model, messages }), /image/); // a model that cannot see says so
  }
});

test('embeds', async () => {
  const { embeddings } = await client.embed({ model: embedder, input: ['a cat', 'a dog'] });
  assert.equal(embeddings.length, 2);
  assert.notDeepEqual(embeddings[0], embeddings[1]);
  const old = await client.embeddings({ model: embedder, prompt: 'a cat' });
  assert.equal(old.embedding.length, embeddings[0].length);
});

test('lists, shows and tells the version', async () => {
  assert.ok((await client.list()).models.some((one) => one.name.replace(':latest', '') === model));
  assert.ok(Array.isArray((await client.ps()).models));
  assert.ok((await client.show({ model })).model_info);
  assert.match((await client.version()).version, /^\d+\.\d+/);
});

test('copies, creates, pushes, pulls and deletes', onOllama, async () => {
  const steps = await collect(await client.create({ model: 'js-made', from: model, stream: true }));
  assert.equal(steps.at(-1).status, 'success');
  assert.equal((await client.copy({ source: model, destination: 'js-copy' })).status, 'success');
  for (let tries = 0; !(await client.list()).models.some((one) => one.name === 'js-copy:latest'); tries++) {
    assert.ok(tries < 200, 'the copy is not listed');
  }
  assert.equal((await client.push({ model: 'js-copy' })).status, 'success');
  assert.equal((await client.delete({ model: 'js-copy' })).status, 'success');
  const progress = await collect(await client.pull({ model, stream: true }));
  assert.equal(progress[0].status, 'pulling manifest');
  assert.equal(progress.at(-1).status, 'success');
  assert.equal((await client.pull({ model })).status, 'success');
});

test('an unknown model to pull is an error in the stream', onOllama, async () => {
  await assert.rejects(client.pull({ model: 'nope', stream: true }).then(collect), /file does not exist/);
});

test('names unknown models as Ollama does', async () => {
  for (const stream of [false, true]) {
    await assert.rejects(client.chat({ model: 'nope', messages: user('x'), stream }), (error) => {
      assert.equal(error.status_code, 404);
      assert.match(error.message, /^model 'nope' not found/);
      return true;
    });
  }
  await assert.rejects(client.embed({ model: 'nope', input: 'x' }), /^ResponseError: model "nope" not found, try pulling it first/);
  await assert.rejects(client.show({ model: 'nope' }), /model 'nope:latest' not found/);
});

test('refusals keep their status', async () => {
  if (isEmulated) {
    await assert.rejects(client.generate({ model, prompt: 'x', keep_alive: '300' }), (error) => error.status_code === 400);
  } else {
    await assert.rejects(client.generate({ model, prompt: 'x', format: 'yaml' }), (error) => error.status_code === 400);
  }
  await assert.rejects(client.generate({ model: '', prompt: 'x' }), /model '' not found/);
});

test('aborts a stream, and the node becomes idle', async () => {
  const mine = new Ollama({ host: url, headers });
  const stream = await mine.generate({ model, prompt: 'count 999', stream: true });
  await assert.rejects(
    (async () => {
      for await (const part of stream) if (!part.done) stream.abort();
    })(),
    (error) => error.name === 'AbortError',
  );
  await idle();
});

test('aborts all streams of a client', async () => {
  const mine = new Ollama({ host: url, headers });
  const streams = await Promise.all([1, 2].map(() => mine.generate({ model, prompt: 'count 999', stream: true })));
  mine.abort();
  for (const stream of streams) await assert.rejects(collect(stream), (error) => error.name === 'AbortError');
  await idle();
});
