// What agents in Node are built with, against a server whose model is scripted as frameworks.py says:
// node frameworks.mjs URL
import assert from 'node:assert/strict';
import Anthropic from '@anthropic-ai/sdk';
import OpenAI from 'openai';
import { generateText, generateObject, streamText, embedMany, stepCountIs, tool } from 'ai';
import { createOpenAI } from '@ai-sdk/openai';
import { createAnthropic } from '@ai-sdk/anthropic';
import { z } from 'zod';

const url = process.argv[2];
const model = 'fake';
const ran = [];
async function test(name, f) {
  await f();
  ran.push(name);
}
const parameters = { type: 'object', properties: { a: { type: 'integer' } }, required: ['a'], additionalProperties: false };

await test('openai responses', async () => {
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 0 });
  const tools = [{ type: 'function', name: 'add', parameters, strict: true }];
  const r = await client.responses.create({ model, input: 'Please add.', tools, temperature: 0 });
  assert.deepEqual(r.output.map((x) => x.type), ['reasoning', 'message', 'function_call']);
  const answer = { type: 'function_call_output', call_id: r.output[2].call_id, output: 'six' };
  assert.equal((await client.responses.create({ model, previous_response_id: r.id, input: [answer], tools, temperature: 0 })).output_text, 'It is six.');
  const stream = client.responses.stream({ model, input: 'Please add.', tools, temperature: 0 });
  for await (const _ of stream);
  assert.equal((await stream.finalResponse()).output[2].arguments, '{"a": 5}');
});

await test('anthropic', async () => {
  const client = new Anthropic({ baseURL: url, apiKey: 'none', maxRetries: 0 });
  const ask = { model, max_tokens: 2000, thinking: { type: 'enabled', budget_tokens: 1024 }, tools: [{ name: 'add', input_schema: parameters }], messages: [{ role: 'user', content: 'Please add.' }] };
  const m = await client.messages.create(ask);
  assert.deepEqual(m.content.map((b) => b.type), ['thinking', 'text', 'tool_use']);
  const history = [...ask.messages, { role: 'assistant', content: m.content }, { role: 'user', content: [{ type: 'tool_result', tool_use_id: m.content[2].id, content: 'six' }] }];
  assert.equal((await client.messages.create({ ...ask, messages: history })).content.at(-1).text, 'It is six.');
  const final = await client.messages.stream(ask).finalMessage();
  assert.deepEqual(final.content[2].input, { a: 5 });
  assert.equal(final.stop_reason, 'tool_use');
  assert.ok((await client.messages.countTokens({ model, messages: ask.messages })).input_tokens > 5);
});

const openai = createOpenAI({ baseURL: `${url}/v1`, apiKey: 'none' });
const anthropic = createAnthropic({ baseURL: `${url}/v1`, apiKey: 'none' });
const tools = { add: tool({ description: 'adds', inputSchema: z.object({ a: z.number().int() }), execute: async () => 'six' }) };
for (const [name, m] of [['openai()', openai(model)], ['openai.chat()', openai.chat(model)], ['anthropic()', anthropic(model)]]) {
  await test(`ai ${name}`, async () => {
    const more = { model: m, tools, stopWhen: stepCountIs(3), prompt: 'Please add.', maxRetries: 0, maxOutputTokens: 500 };
    const r = await generateText(more);
    assert.equal(r.text, 'It is six.');
    assert.equal(r.steps.length, 2);
    const s = streamText(more);
    let text = '';
    for await (const part of s.fullStream) {
      if (part.type === 'text-delta') text += part.text;
      if (part.type === 'error') throw part.error;
    }
    assert.equal(text, 'One moment.It is six.');
  });
}
await test('ai objects and embeddings', async () => {
  const { object } = await generateObject({ model: openai.chat(model), schema: z.object({ n: z.number().int(), way: z.enum(['a', 'b']) }), prompt: '?', maxRetries: 0, maxOutputTokens: 300 });
  assert.ok(Number.isInteger(object.n));
  const { embeddings } = await embedMany({ model: openai.embedding(model), values: Array.from({ length: 200 }, (_, i) => `document ${i}`) });
  assert.equal(embeddings.length, 200);
});
console.log('ok:', ran.join(', '));
