// The server's API: OpenAI's protocol with a key where one is needed.

export class ApiError extends Error {
  constructor(message, status, retry, code) {
    super(message);
    this.status = status;
    this.retry = retry; // seconds
    this.code = code; // such as context_length_exceeded
  }
}

let key = '';
export function setKey(k) {
  key = k;
}

async function call(path, options = {}) {
  const headers = { ...(key && { Authorization: `Bearer ${key}` }) };
  if (options.body) headers['Content-Type'] = 'application/json';
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (e) {
    if (e.name === 'AbortError') throw e;
    throw new ApiError('The server cannot be reached.', 0);
  }
  if (answer.ok) return answer;
  let message = `${answer.status} ${answer.statusText}`;
  let code;
  try {
    ({ message, code } = (await answer.json()).error);
  } catch { /* not from our server */ }
  throw new ApiError(message, answer.status, Number(answer.headers.get('Retry-After')) || 0, code);
}

export async function models() {
  return (await (await call('v1/models')).json()).data;
}

export async function stats() {
  return (await call('stats')).json();
}

/** Streams an answer; yields {text}, {finish} and {usage}. */
export async function* chat(body, signal) {
  const answer = await call('v1/chat/completions', {
    method: 'POST',
    signal,
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
  });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  let done = false;
  try {
    for (;;) {
      const part = await reader.read();
      if (part.done) break;
      const lines = (rest + part.value).split('\n');
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith('data: ')) continue;
        if (line === 'data: [DONE]') {
          done = true;
          continue;
        }
        const event = JSON.parse(line.slice(6));
        if (event.error) throw new ApiError(event.error.message, 500);
        const choice = event.choices[0];
        if (choice?.delta?.content) yield { text: choice.delta.content };
        if (choice?.finish_reason) yield { finish: choice.finish_reason };
        if (event.usage) yield { usage: event.usage };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
  if (!done) throw new ApiError('The answer was cut short: the connection broke.', 0);
}
