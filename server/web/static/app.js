// The chat page: draws conversations, streams answers, shows what the server does.
import * as api from './api.js';
import { markdown } from './markdown.js';
import { chats, saveChats, settings, saveSettings, defaults } from './store.js';

const $ = (id) => document.getElementById(id);

/** Makes an element: h('button', {class: 'x', onclick}, 'text', child). */
function h(tag, props = {}, ...children) {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(props)) {
    if (k.startsWith('on')) e.addEventListener(k.slice(2), v);
    else if (v !== undefined) e.setAttribute(k, v);
  }
  e.append(...children);
  return e;
}

function icon(name) {
  const ns = 'http://www.w3.org/2000/svg';
  const svg = document.createElementNS(ns, 'svg');
  const use = document.createElementNS(ns, 'use');
  use.setAttribute('href', `#i-${name}`);
  svg.append(use);
  return svg;
}

const button = (name, label, onclick) => h('button', { class: 'icon', type: 'button', title: label, 'aria-label': label, onclick }, icon(name));

let chat = chats[0]; // the open conversation; undefined: a new one
let running; // {chat, abort, message}
let editing = -1; // message that is being edited

// ---- conversations

function drawChats() {
  $('chats').replaceChildren(...chats.map((c) => h('li', { class: c === chat ? 'on' : '' },
    h('button', { class: 'open', onclick: () => open(c), title: c.title, 'aria-current': c === chat ? 'true' : undefined }, c.title),
    button('trash', 'Delete', () => remove(c)))));
}

function open(c) {
  chat = c;
  editing = -1;
  side(false);
  drawChats();
  draw();
  bottom();
  if (!matchMedia('(pointer: coarse)').matches) $('input').focus();
}

function remove(c) {
  if (!confirm(`Delete “${c.title}”?`)) return;
  if (running?.chat === c) stop();
  chats.splice(chats.indexOf(c), 1);
  saveChats();
  open(c === chat ? chats[0] : chat);
}

function touch(c) {
  const i = chats.indexOf(c);
  if (i > 0) {
    chats.splice(i, 1);
    chats.unshift(c);
  }
  saveChats();
  drawChats();
}

// ---- messages

const logo = () => document.querySelector('.brand svg').cloneNode(true);
const ideas = ['Explain how a bicycle stays upright', 'Write a short poem about winter rain', 'Three ideas for dinner with lentils', 'What is a ternary weight, in plain words?'];

function draw() {
  if (!chat) {
    $('log').replaceChildren(h('div', { class: 'hello' }, logo(),
      h('h1', {}, 'What would you like to talk about?'),
      h('p', {}, 'Your words go to this server and nowhere else.'),
      h('ul', {}, ...ideas.map((text) => h('li', {}, h('button', { type: 'button', onclick: () => send(text) }, text))))));
    return;
  }
  $('log').replaceChildren(...chat.messages.map((m, i) => drawMessage(chat, m, i)));
}

function drawMessage(c, m, i) {
  const e = h('article', { class: `msg ${m.role}`, 'aria-label': m.role === 'user' ? 'You' : 'Assistant' });
  if (m.role === 'user' && i === editing) {
    const text = h('textarea', { 'aria-label': 'Edit the message' });
    text.value = m.content;
    const finish = (go) => {
      editing = -1;
      if (go && text.value.trim()) resend(c, i, text.value.trim());
      else draw();
    };
    text.addEventListener('keydown', (k) => {
      if (k.key === 'Escape') finish(false);
      if (k.key === 'Enter' && !k.shiftKey && !k.isComposing) {
        k.preventDefault();
        finish(true);
      }
      k.stopPropagation();
    });
    e.append(h('div', { class: 'editing' }, text, h('div', {},
      h('button', { class: 'btn', type: 'button', onclick: () => finish(false) }, 'Cancel'),
      h('button', { class: 'btn go', type: 'button', onclick: () => finish(true) }, 'Send'))));
    queueMicrotask(() => text.focus());
    return e;
  }
  const body = h('div', { class: 'body' });
  e.append(body);
  fill(body, m);
  if (m.error) {
    e.append(h('div', { class: 'error', role: 'alert' }, h('span', {}, m.error), h('button', { type: 'button', onclick: () => regenerate(c, i) }, 'Try again')));
  }
  const acts = h('div', { class: 'acts' });
  if (m.content) acts.append(copyButton('Copy', () => m.content));
  if (m.role === 'user') {
    acts.append(button('edit', 'Edit', () => {
      stop();
      editing = i;
      draw();
    }));
  } else if (!m.error) { // an error has a button of its own
    acts.append(button('redo', 'Answer again', () => regenerate(c, i)));
    if (m.note) acts.append(h('span', {}, m.note.replaceAll(/(\d) | (·)/g, '$1\u00a0$2'))); // numbers stay with their units
  }
  e.append(acts);
  if (running?.message === m) e.classList.add('live');
  return e;
}

function copyButton(label, text) {
  const b = button('copy', label, async () => {
    try {
      await navigator.clipboard.writeText(text());
    } catch { // no permission, or not a secure page
      const t = h('textarea', { class: 'hide' });
      t.value = text();
      document.body.append(t);
      t.select();
      document.execCommand('copy');
      t.remove();
    }
    b.replaceChildren(icon('check'));
    setTimeout(() => b.replaceChildren(icon('copy')), 1200);
  });
  return b;
}

/** Shows a message's text: the user's as it is, the assistant's as markdown. */
function fill(body, m) {
  if (m.role === 'user') {
    body.textContent = m.content;
    return;
  }
  body.classList.add('md');
  const nodes = markdown(m.content);
  for (const pre of nodes.querySelectorAll('pre')) {
    pre.append(copyButton('Copy the code', () => pre.querySelector('code')?.textContent ?? ''));
  }
  body.replaceChildren(nodes);
}

// ---- answers

function send(text) {
  text = text.trim();
  if (!text || running) return;
  if (!chat) {
    chat = { id: crypto.randomUUID?.() ?? String(Date.now()), title: text.split('\n')[0].slice(0, 60), messages: [] };
    chats.unshift(chat);
  }
  chat.messages.push({ role: 'user', content: text });
  answer(chat);
}

function resend(c, i, text) {
  stop();
  c.messages.length = i;
  c.messages.push({ role: 'user', content: text });
  if (i === 0) c.title = text.split('\n')[0].slice(0, 60);
  answer(c);
}

function regenerate(c, i) {
  stop();
  c.messages.length = i;
  answer(c);
}

function stop() {
  running?.abort.abort();
}

/** api.chat, without the oldest messages where the model's context does not hold them all; says so with {left}. */
async function* fitting(body, signal) {
  const all = body.messages.length;
  const from = body.messages[0]?.role === 'system' ? 1 : 0;
  for (;;) {
    try {
      if (body.messages.length < all) yield { left: all - body.messages.length };
      yield* api.chat(body, signal);
      return;
    } catch (e) {
      if (e.code !== 'context_length_exceeded' || body.messages.length <= from + 1) throw e;
      do body.messages.splice(from, 1); while (body.messages[from].role !== 'user');
    }
  }
}

async function answer(c) {
  const m = { role: 'assistant', content: '' };
  const mine = { chat: c, abort: new AbortController(), message: m };
  stop();
  running = mine;
  const messages = c.messages.filter((x) => x.content).map(({ role, content }) => ({ role, content }));
  if (settings.system.trim()) messages.unshift({ role: 'system', content: settings.system.trim() });
  c.messages.push(m);
  touch(c);
  draw();
  bottom();
  busy(true);

  let frame = 0;
  let tokens = 0;
  let first = 0;
  let left = '';
  const start = performance.now();
  const show = () => {
    frame = 0;
    if (chat !== c || editing >= 0) return;
    const follow = atBottom();
    const body = $('log').lastElementChild?.querySelector('.body');
    if (body) fill(body, m);
    if (follow) bottom();
  };
  const note = () => {
    const seconds = (performance.now() - first) / 1000;
    if (!first) return '';
    const rate = tokens > 1 && seconds > 0 ? ` · ${((tokens - 1) / seconds).toFixed(1)} tokens/s` : '';
    return `${tokens} tokens${rate} · first after ${((first - start) / 1000).toFixed(2)} s`;
  };
  try {
    const body = { model: settings.model || undefined, messages };
    for (const k of ['temperature', 'top_p', 'top_k', 'min_p', 'repetition_penalty', 'max_tokens']) body[k] = settings[k];
    body.repeat_last_n = 64;
    if (settings.seed !== '') body.seed = Number(settings.seed);
    for await (const e of fitting(body, mine.abort.signal)) {
      if (e.left) left = ` · without the first ${e.left} messages`;
      if (e.text) {
        first ||= performance.now();
        tokens++;
        m.content += e.text;
        frame ||= requestAnimationFrame(show);
      }
      if (e.finish === 'length') m.cut = true;
      if (e.usage) tokens = e.usage.completion_tokens;
    }
    m.note = `${note()}${m.cut ? ' · cut at the limit' : ''}${left}`;
  } catch (e) {
    if (e.name === 'AbortError') {
      m.note = `${note() ? `${note()} · ` : ''}stopped`;
    } else {
      m.error = e.message.replace(/^[a-z]/, (x) => x.toUpperCase()).replace(/[^.!?]$/, '$&.') + (e.retry ? ` Try again in ${e.retry} s.` : '');
      if (e.status === 401) askKey();
    }
  } finally {
    cancelAnimationFrame(frame);
    if (!m.content && !m.error && mine.abort.signal.aborted) c.messages.splice(c.messages.indexOf(m), 1);
    if (running === mine) {
      running = undefined;
      busy(false);
    }
    saveChats();
    if (chat === c && editing < 0) {
      const follow = atBottom();
      draw();
      if (follow) bottom();
    }
    $('status').textContent = m.error ? 'The answer failed.' : 'The answer is complete.';
  }
}

function busy(on) {
  $('stop').hidden = !on;
  $('send').hidden = on;
  if (on) $('status').textContent = 'The assistant writes.';
}

function askKey() {
  panel(true);
  $('key').focus();
}

// ---- scrolling and the message field

const scroll = $('scroll');
const atBottom = () => scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 80;
function bottom() {
  scroll.scrollTop = scroll.scrollHeight;
}
scroll.addEventListener('scroll', () => {
  $('down').hidden = atBottom();
});
$('down').addEventListener('click', bottom);

const input = $('input');
function fit() {
  input.style.height = 'auto';
  input.style.height = `${input.scrollHeight}px`;
  $('send').disabled = !input.value.trim();
}
input.addEventListener('input', fit);
input.addEventListener('keydown', (k) => {
  if (k.key === 'Enter' && !k.shiftKey && !k.isComposing) {
    k.preventDefault();
    $('form').requestSubmit();
  }
  if (k.key === 'ArrowUp' && !input.value && chat) {
    const i = chat.messages.findLastIndex((m) => m.role === 'user');
    if (i >= 0) {
      k.preventDefault();
      editing = i;
      draw();
    }
  }
});
$('form').addEventListener('submit', (e) => {
  e.preventDefault();
  if (running || !input.value.trim()) return;
  const text = input.value;
  input.value = '';
  fit();
  send(text);
});
$('stop').addEventListener('click', () => {
  stop();
  input.focus();
});

// ---- panels, theme, keys

const narrow = matchMedia('(max-width: 760px)');
const floating = matchMedia('(max-width: 1080px)');

function side(on) {
  $('side').classList.toggle('open', on);
  $('menu').setAttribute('aria-expanded', on);
  shade();
}

function panel(on) {
  $('panel').hidden = !on;
  $('tune').setAttribute('aria-expanded', on);
  shade();
  if (on) refresh();
}

function shade() {
  $('shade').hidden = !(narrow.matches && $('side').classList.contains('open') || floating.matches && !$('panel').hidden);
}
for (const m of [narrow, floating]) m.addEventListener('change', shade);
$('menu').addEventListener('click', () => side(!$('side').classList.contains('open')));
$('tune').addEventListener('click', () => panel($('panel').hidden));
$('unpanel').addEventListener('click', () => panel(false));
$('shade').addEventListener('click', () => {
  side(false);
  panel(false);
});
$('new').addEventListener('click', () => open(undefined));

function theme(next) {
  if (next) document.documentElement.dataset.theme = next;
}
function toggleTheme() {
  const dark = getComputedStyle(document.documentElement).colorScheme === 'dark';
  settings.theme = dark ? 'light' : 'dark';
  theme(settings.theme);
  saveSettings();
}
$('theme').addEventListener('click', toggleTheme);

document.addEventListener('keydown', (k) => {
  if (k.key === 'Escape') {
    if (!$('shade').hidden || !$('panel').hidden && !running) {
      side(false);
      panel(false);
    } else {
      stop();
    }
    return;
  }
  if (k.altKey && !k.ctrlKey && !k.metaKey) {
    const act = { KeyN: () => open(undefined), KeyT: toggleTheme, KeyS: () => panel($('panel').hidden), KeyC: () => side(!$('side').classList.contains('open')) }[k.code];
    if (act) {
      k.preventDefault();
      act();
    }
    return;
  }
  if (k.key === '/' && !/^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName)) {
    k.preventDefault();
    input.focus();
  }
});

// ---- settings

const sliders = [
  ['temperature', 'Temperature', 0, 2, 0.05],
  ['top_p', 'Top p', 0.05, 1, 0.05],
  ['top_k', 'Top k (0: all)', 0, 200, 1],
  ['min_p', 'Min p', 0, 0.5, 0.01],
  ['repetition_penalty', 'Repetition penalty', 1, 1.5, 0.01],
];

function drawSettings() {
  const rows = sliders.map(([name, label, min, max, step]) => {
    const out = h('output', {}, String(settings[name]));
    const range = h('input', { type: 'range', min, max, step, id: `o-${name}` });
    range.value = settings[name];
    range.addEventListener('input', () => {
      settings[name] = Number(range.value);
      out.value = range.value;
      saveSettings();
    });
    return h('label', {}, label, out, range);
  });
  for (const [name, label, min] of [['max_tokens', 'Longest answer', 1], ['seed', 'Seed', 0]]) {
    const number = h('input', { type: 'number', min, step: 1, id: `o-${name}`, placeholder: name === 'seed' ? 'random' : '' });
    number.value = settings[name];
    number.addEventListener('change', () => {
      const bad = number.value !== '' && !(Number.isInteger(Number(number.value)) && Number(number.value) >= min);
      if (bad || number.value === '' && name !== 'seed') number.value = defaults[name];
      settings[name] = number.value === '' ? '' : Number(number.value);
      saveSettings();
    });
    rows.push(h('label', {}, label, number));
  }
  $('sliders').replaceChildren(...rows);
  $('system').value = settings.system;
  $('key').value = settings.key;
}

for (const name of ['system', 'key']) {
  $(name).addEventListener('input', () => {
    settings[name] = $(name).value.trim();
    saveSettings();
    if (name === 'key') {
      api.setKey(settings.key);
      loadModels();
    }
  });
}
$('defaults').addEventListener('click', () => {
  const { key, theme: t, model } = settings;
  Object.assign(settings, defaults, { key, theme: t, model });
  saveSettings();
  drawSettings();
});
$('model').addEventListener('change', () => {
  settings.model = $('model').value;
  saveSettings();
});

async function loadModels() {
  try {
    const list = await api.models();
    $('model').replaceChildren(...list.map((m) => h('option', { value: m.id }, m.id)));
    if (!list.some((m) => m.id === settings.model)) settings.model = list[0].id;
    $('model').value = settings.model;
    $('model').classList.toggle('many', list.length > 1);
    document.title = `${settings.model} – trit`;
  } catch (e) {
    if (e.status === 401) askKey();
  }
}

// ---- the live panel

const history = [];
let refreshing = false;

async function refresh() {
  if (refreshing || document.hidden) return;
  refreshing = true;
  try {
    const all = (await api.stats()).models;
    const s = all.find((x) => x.model === settings.model) ?? all[0];
    const rate = s.tokens_per_second;
    history.push(rate);
    if (history.length > 120) history.shift();
    $('speed').value = rate >= 0.05 ? `${rate.toFixed(1)} tokens/s` : '';
    if ($('panel').hidden) return;
    $('s-write').textContent = `${rate.toFixed(1)} tokens/s`;
    $('s-read').textContent = `${s.prompt_tokens_per_second.toFixed(1)} tokens/s`;
    $('s-run').textContent = `${s.running} of ${s.max_batch}`;
    $('s-queue').textContent = s.queued;
    $('s-hit').textContent = s.prompt_tokens_total ? `${Math.round(100 * s.prompt_tokens_cached_total / s.prompt_tokens_total)} %` : '–';
    const k = (n) => (n >= 1e7 ? `${Math.round(n / 1e6)} M` : n >= 1e4 ? `${Math.round(n / 1000)} k` : n);
    $('s-cache').textContent = `${k(s.cache_tokens)} of ${k(s.cache_capacity_tokens)} tokens`;
    $('s-bar').value = s.cache_tokens / Math.max(1, s.cache_capacity_tokens);
    const top = Math.max(1, ...history) * 1.1;
    const points = history.map((v, i) => `${(240 - 2 * (history.length - 1 - i)).toFixed(1)} ${(56 - 54 * v / top).toFixed(1)}`);
    const line = `M${points.join('L')}`;
    document.querySelector('#graph .line').setAttribute('d', line);
    document.querySelector('#graph .area').setAttribute('d', `${line}L240 56L${240 - 2 * (history.length - 1)} 56Z`);
  } catch { /* shown where it matters: at the next answer */ } finally {
    refreshing = false;
  }
}
setInterval(refresh, 1000);

// ---- start

// Other tabs write the same conversations: take theirs when this one is idle.
addEventListener('storage', (e) => {
  if (e.key !== 'trit.chats' || running) return;
  const id = chat?.id;
  chats.splice(0, chats.length, ...(JSON.parse(e.newValue) ?? []));
  chat = chats.find((c) => c.id === id);
  drawChats();
  draw();
});

theme(settings.theme);
api.setKey(settings.key);
drawSettings();
fit();
loadModels();
drawChats();
draw();
bottom();
