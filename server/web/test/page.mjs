// Drives the chat page in a real browser: node page.mjs URL FOLDER-FOR-SCREENSHOTS [CHROMIUM]
import assert from 'node:assert/strict';
import { chromium } from 'playwright-core';

const [url, shots, executablePath = '/usr/bin/chromium'] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--no-first-run'],
});

/** Opens the page in a fresh profile; whatever goes wrong in it fails the test at the end. */
async function visit(options) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  context.setDefaultTimeout(120_000); // slow machines
  const page = await context.newPage();
  const wrong = [];
  page.on('console', (m) => ['error', 'warning'].includes(m.type()) && !/40[014]|429|503/.test(m.text()) && wrong.push(m.text()));
  page.on('pageerror', (e) => wrong.push(String(e)));
  page.on('request', (r) => r.url().startsWith(url) || r.url().startsWith('data:') || wrong.push(`fetched ${r.url()}`));
  page.on('dialog', (d) => d.accept());
  await page.goto(url);
  await page.waitForFunction(() => document.querySelector('#model option'));
  return { page, context, done: async () => {
    await context.close();
    assert.deepEqual(wrong, []);
  } };
}

const last = (page) => page.locator('.msg.assistant').last();
async function ask(page, text) {
  await page.fill('#input', text);
  await page.keyboard.press('Enter');
}
const idle = (page) => page.waitForSelector('#stop', { state: 'hidden' });
const shot = (page, name) => page.screenshot({ path: `${shots}/${name}.png` });
let step = 'start';

try {
  step = 'conversation';
  const a = await visit();
  let page = a.page;
  await shot(page, 'desktop-empty');
  await ask(page, 'show markdown');
  await idle(page);
  assert.match(await last(page).innerText(), /Ternary weights/);
  assert.equal(await last(page).locator('pre code').count(), 1);
  assert.equal(await last(page).locator('table').count(), 1);
  assert.match(await last(page).locator('.acts').innerText(), /tokens/);
  await page.click('#tune');
  await page.waitForFunction(() => document.querySelector('#s-cache').textContent.includes('of'));
  await page.waitForTimeout(2500);
  await shot(page, 'desktop-light');
  await page.click('#theme');
  await shot(page, 'desktop-dark');
  await page.keyboard.press('Escape');
  assert.ok(await page.isHidden('#panel'));

  step = 'stop';
  await ask(page, 'say long');
  await page.waitForFunction(() => document.querySelector('.msg:last-child .body')?.textContent.length > 20);
  await shot(page, 'desktop-streaming');
  await page.click('#stop');
  await idle(page);
  const partial = await last(page).locator('.body').innerText();
  assert.ok(partial.length > 10 && partial.length < 3000);
  assert.match(await last(page).locator('.acts').innerText(), /stopped/);
  await page.waitForFunction(async () => (await (await fetch('stats')).json()).models[0].running === 0);

  step = 'regenerate';
  await ask(page, 'hello');
  await idle(page);
  assert.equal(await last(page).locator('.body').innerText(), 'Hello there!');
  await last(page).locator('button[title="Answer again"]').click();
  await idle(page);
  assert.equal(await last(page).locator('.body').innerText(), 'Hello there!');
  assert.equal(await page.locator('.msg').count(), 6);

  step = 'edit';
  await page.fill('#input', '');
  await page.keyboard.press('ArrowUp');
  await page.fill('.editing textarea', 'hello again');
  await page.keyboard.press('Enter');
  await idle(page);
  assert.equal(await page.locator('.msg.user').last().locator('.body').innerText(), 'hello again');
  assert.equal(await page.locator('.msg').count(), 6);

  step = 'hostile markdown';
  await ask(page, 'attack me');
  await idle(page);
  assert.match(await last(page).innerText(), /<script>/);
  assert.equal(await page.evaluate(() => window.pwned), undefined);
  assert.equal(await last(page).locator('script, img, iframe, style, form, input, [onerror], [onclick], [style], a[href^="javascript"]').count(), 0);
  await shot(page, 'desktop-attack');

  step = 'reload keeps history';
  await page.reload();
  await page.waitForSelector('.msg');
  assert.equal(await page.locator('.msg').count(), 8);
  assert.equal(await page.evaluate(() => window.pwned), undefined);

  step = 'several conversations';
  await page.keyboard.press('Alt+KeyN');
  await page.waitForSelector('.hello');
  await ask(page, 'hello');
  await idle(page);
  assert.equal(await page.locator('#chats li').count(), 2);
  await page.locator('#chats .open').nth(1).click();
  assert.equal(await page.locator('.msg').count(), 8);
  await page.locator('#chats li').nth(1).hover();
  await page.locator('#chats li').nth(1).locator('button[title=Delete]').click();
  await page.waitForFunction(() => document.querySelectorAll('#chats li').length === 1);
  await a.done();

  step = 'phone';
  const b = await visit({ viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, hasTouch: true, isMobile: true, colorScheme: 'dark' });
  page = b.page;
  await shot(page, 'phone-empty');
  await page.locator('.hello li button').first().tap();
  await idle(page);
  await ask(page, 'show markdown');
  await idle(page);
  const wide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
  assert.ok(!wide, 'the page is wider than the phone');
  await shot(page, 'phone-chat');
  await page.tap('#menu');
  await page.waitForTimeout(300);
  await shot(page, 'phone-menu');
  await page.locator('#shade').tap({ position: { x: 370, y: 400 } });
  await page.waitForTimeout(300);
  await page.tap('#tune');
  await page.waitForTimeout(1500);
  await shot(page, 'phone-panel');
  await b.done();

  step = 'errors';
  const c = await visit();
  page = c.page;
  await page.route('**/v1/chat/completions', (r) => r.fulfill({ status: 429, headers: { 'Retry-After': '2' }, json: { error: { message: 'too many requests wait already' } } }));
  await ask(page, 'hello');
  await page.waitForSelector('.error');
  assert.match(await page.locator('.error').innerText(), /Too many.*Try again in 2 s/s);
  await shot(page, 'desktop-error');
  await page.unroute('**/v1/chat/completions');
  await page.click('.error button');
  await idle(page);
  assert.equal(await last(page).locator('.body').innerText(), 'Hello there!');

  step = 'a full context';
  await page.route('**/v1/chat/completions', (r) => (r.request().postDataJSON().messages.length > 1
    ? r.fulfill({ status: 400, json: { error: { message: 'the prompt has 300 tokens', code: 'context_length_exceeded' } } })
    : r.continue()));
  await ask(page, 'hello');
  await idle(page);
  assert.equal(await last(page).locator('.body').innerText(), 'Hello there!');
  assert.match(await last(page).locator('.acts').innerText(), /without the first 2\smessages/);
  assert.equal(await page.locator('.msg').count(), 4);
  await c.done();
  console.log('ok');
} catch (e) {
  e.message = `${step}: ${e.message}`;
  throw e;
} finally {
  await browser.close();
}
