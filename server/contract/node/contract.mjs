// OpenAI's own Node client against a server: node contract.mjs URL
import assert from 'node:assert/strict';
import OpenAI from 'openai';

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: 'none', maxRetries: 0 });
const model = (await client.models.list()).data[0].id;
const messages = [{ role: 'user', content: 'hello' }];
const ran = [];
async function test(name, f) {
  try {
    await f();
    ran.push(name);
  } catch (e) {
    if (e.code !== 'invalid_grammar' || !/vocabulary/.test(e.message)) throw e;
    ran.push(`(${name}: this model's vocabulary cannot spell JSON)`);
  }
}

await test('chat and stream', async () => {
  const whole = await client.chat.completions.create({ model, messages, temperature: 0, max_tokens: 20 });
  let text = '';
  let usage;
  for await (const chunk of await client.chat.completions.create({ model, messages, temperature: 0, max_tokens: 20, stream: true, stream_options: { include_usage: true } })) {
    text += chunk.choices[0]?.delta?.content ?? '';
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
});

await test('stream helper and abort', async () => {
  const stream = client.chat.completions.stream({ model, messages, temperature: 0, max_tokens: 20 });
  const final = await stream.finalChatCompletion();
  assert.ok(final.choices[0].message.role === 'assistant');
  const cut = await client.chat.completions.create({ model, messages, stream: true, max_tokens: 1000, ignore_eos: true });
  for await (const _ of cut) break; // closes the connection
});

await test('completions with logprobs', async () => {
  const r = await client.completions.create({ model, prompt: [[1, 2, 3], [4, 5]], max_tokens: 1, echo: true, logprobs: 1, temperature: 0 });
  assert.deepEqual(r.choices.map((c) => c.logprobs.token_logprobs.length), [4, 3]);
  assert.equal(r.choices[0].logprobs.token_logprobs[0], null);
});

await test('embeddings', async () => {
  const r = await client.embeddings.create({ model, input: ['one', 'two'] });
  assert.equal(r.data.length, 2);
  assert.ok(Math.abs(r.data[0].embedding.reduce((s, x) => s + x * x, 0) - 1) < 1e-3);
});

await test('tools', async () => {
  const tools = [{ type: 'function', function: { name: 'add', parameters: { type: 'object', properties: { a: { type: 'integer' } }, required: ['a'], additionalProperties: false } } }];
  const r = await client.chat.completions.create({ model, messages, tools, tool_choice: 'required', max_tokens: 200, parallel_tool_calls: false });
  const call = r.choices[0].message.tool_calls[0];
  assert.equal(call.function.name, 'add');
  assert.ok(Number.isInteger(JSON.parse(call.function.arguments).a));
});

await test('strict schema', async () => {
  const schema = { type: 'object', properties: { a: { type: 'boolean' } }, required: ['a'], additionalProperties: false };
  const r = await client.chat.completions.create({ model, messages, max_tokens: 50, response_format: { type: 'json_schema', json_schema: { name: 'x', strict: true, schema } } });
  assert.equal(typeof JSON.parse(r.choices[0].message.content).a, 'boolean');
});

await test('errors', async () => {
  await assert.rejects(client.chat.completions.create({ model: 'nobody', messages }), (e) => e.status === 404 && e.code === 'model_not_found' && Boolean(e.requestID));
  await assert.rejects(client.chat.completions.create({ model, messages, top_p: 7 }), (e) => e.status === 400 && e.param === 'top_p');
});

console.log('ok:', ran.join(', '));
