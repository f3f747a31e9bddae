// LangChain's classes for Ollama and OpenAI in JavaScript, through the gateway.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AIMessage, HumanMessage, ToolMessage } from '@langchain/core/messages';
import { tool } from '@langchain/core/tools';
import { ChatOllama, OllamaEmbeddings } from '@langchain/ollama';
import { ChatOpenAI, OpenAIEmbeddings } from '@langchain/openai';
import { z } from 'zod';
import { embedder, headers, model, url, words } from './world.mjs';

const openai = { apiKey: 'none', configuration: { baseURL: `${url}/v1`, defaultHeaders: headers } };
const made = {
  // what n8n and LangChain send of their own: load options, most of them without meaning for another engine
  ollama: (more) => new ChatOllama({ baseUrl: url, headers, model, numBatch: 512, lowVram: false, useMmap: true, ...more }),
  openai: (more) => new ChatOpenAI({ ...openai, model, ...more }),
};
const weather = tool(async ({ city }) => `rain in ${city}`, {
  name: 'get_weather',
  description: 'The weather of a city',
  schema: z.object({ city: z.string() }),
});

for (const [name, make] of Object.entries(made)) {
  test(`${name}: answers whole`, async () => {
    const answer = await make({ temperature: 0 }).invoke([new HumanMessage('count 4')]);
    assert.deepEqual(words(answer.content), ['3', '2', '1', '0']);
  });

  test(`${name}: streams`, async () => {
    const parts = [];
    for await (const part of await make({}).stream([new HumanMessage('count 4')])) parts.push(part.content);
    assert.deepEqual(words(parts.join('')), ['3', '2', '1', '0']);
    assert.ok(parts.length > 1);
  });

  test(`${name}: calls a tool and goes on with its result`, async () => {
    const bound = make({}).bindTools([weather]);
    const first = await bound.invoke([new HumanMessage('please call')]);
    const calls = [...first.tool_calls, ...(first.invalid_tool_calls ?? [])];
    assert.equal(calls[0].name, 'get_weather');
    const called = new AIMessage({ content: '', tool_calls: [{ name: 'get_weather', args: { city: 'Rome' }, id: 'c1' }] });
    const told = new ToolMessage({ content: 'rain, then count 2', tool_call_id: 'c1' });
    const second = await bound.invoke([new HumanMessage('please call'), called, told]);
    assert.ok(second.content.length > 0 || second.tool_calls.length > 0);
  });

  test(`${name}: obeys a limit`, async () => {
    const limit = name === 'ollama' ? { numPredict: 5 } : { maxTokens: 5 };
    const answer = await make(limit).invoke([new HumanMessage('count 50')]);
    assert.ok(words(answer.content).length <= 5);
  });
}

test('ollama: embeds', async () => {
  const vectors = await new OllamaEmbeddings({ baseUrl: url, headers, model: embedder }).embedDocuments(['a cat', 'a dog']);
  assert.equal(vectors.length, 2);
});

test('openai: embeds', async () => {
  const vectors = await new OpenAIEmbeddings({ ...openai, model: embedder }).embedDocuments(['a cat', 'a dog']);
  assert.equal(vectors.length, 2);
});
