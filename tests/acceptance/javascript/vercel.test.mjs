// Vercel's AI SDK with three providers: Ollama's dialect, OpenAI's and Anthropic's, through the gateway.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createAnthropic } from '@ai-sdk/anthropic';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { embed, embedMany, generateText, stepCountIs, streamText, tool } from 'ai';
import { createOllama } from 'ollama-ai-provider-v2';
import { z } from 'zod';
import { embedder, headers, model, url, words } from './world.mjs';

const ollama = createOllama({ baseURL: `${url}/api`, headers });
const openai = createOpenAICompatible({ name: 'fleet', baseURL: `${url}/v1`, headers, includeUsage: true });
const anthropic = createAnthropic({ baseURL: `${url}/v1`, apiKey: 'none', headers });
const models = { ollama: ollama(model), openai: openai(model), anthropic: anthropic(model) };

const asked = [];
const get_weather = tool({
  description: 'The weather of a city',
  inputSchema: z.object({ city: z.string() }),
  execute: async (input) => {
    asked.push(input);
    return 'rain, then count 2';
  },
});

for (const [name, spoken] of Object.entries(models)) {
  test(`${name}: generates text`, async () => {
    const { text, usage } = await generateText({ model: spoken, prompt: 'count 4', temperature: 0, maxOutputTokens: 40 });
    assert.deepEqual(words(text), ['3', '2', '1', '0']);
    assert.ok(usage.outputTokens >= 4);
  });

  test(`${name}: streams text`, async () => {
    const errors = [];
    const { textStream } = streamText({ model: spoken, prompt: 'count 4', onError: ({ error }) => errors.push(error) });
    const parts = [];
    for await (const part of textStream) parts.push(part);
    assert.deepEqual(errors, []);
    assert.ok(parts.length > 1, 'token by token');
    assert.deepEqual(words(parts.join('')), ['3', '2', '1', '0']);
  });

  test(`${name}: calls a tool and goes on with its result`, async () => {
    asked.length = 0;
    const { steps } = await generateText({
      model: spoken,
      prompt: 'please call',
      tools: { get_weather },
      toolChoice: 'auto',
      stopWhen: stepCountIs(2),
      maxOutputTokens: 200,
    });
    assert.equal(steps[0].toolCalls[0].toolName, 'get_weather');
    assert.equal(asked.length >= 1 || steps[0].toolCalls[0].invalid === true, true);
    assert.ok(steps.length === 2 || steps[0].toolCalls[0].invalid === true);
  });

  test(`${name}: a model that does not exist is an error with the gateway's words`, async () => {
    const missing = { ollama: ollama('nope'), openai: openai('nope'), anthropic: anthropic('nope') }[name];
    await assert.rejects(generateText({ model: missing, prompt: 'x', maxRetries: 0 }), (error) => {
      assert.equal(error.statusCode, 404);
      assert.match(error.responseBody, /nope/);
      return true;
    });
  });
}

test('ollama: embeds one and many', async () => {
  const spoken = ollama.textEmbeddingModel ? ollama.textEmbeddingModel(embedder) : ollama.embedding(embedder);
  const { embedding } = await embed({ model: spoken, value: 'a cat' });
  const { embeddings } = await embedMany({ model: spoken, values: ['a cat', 'a dog'] });
  assert.equal(embeddings.length, 2);
  assert.equal(embeddings[0].length, embedding.length);
});

test('openai: embeds one and many', async () => {
  const { embeddings } = await embedMany({ model: openai.textEmbeddingModel(embedder), values: ['a cat', 'a dog'] });
  assert.equal(embeddings.length, 2);
  assert.notDeepEqual(embeddings[0], embeddings[1]);
});
