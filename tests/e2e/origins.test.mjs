// What a browser holds back or lets through between origins: cookies count only for pages that are allowed.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { PageServer } from './harness/page_server.mjs';
import { startChromium } from './harness/browsers.mjs';
import { Tidings } from './harness/tidings.mjs';
import { ReadingPage } from './readers/browser.mjs';

let allowed;
let foreign;
let hub;
let chromium;
let token;
before(async () => {
  allowed = await PageServer.start();
  foreign = await PageServer.start();
  hub = await Tidings.start({ config: `retry = "50ms"\n[cors]\norigins = ["${allowed.origin}"]\n` });
  token = await hub.token({ sub: 'ana', subscribe: ['orders/**'], publish: ['**'] });
  chromium = await startChromium();
});
after(async () => {
  await chromium?.stop();
  await hub?.stop();
  await allowed?.stop();
  await foreign?.stop();
});

async function reading(pages, query, options) {
  const page = await ReadingPage.open(chromium, pages.origin, { cookie: token });
  return page.read('EventSource', hub.events('orders/1', query), { types: ['message'], ...options });
}

test('an allowed page reads with its cookie, sent with credentials', async () => {
  const reader = await reading(allowed, '', { withCredentials: true });
  await reader.opened();
  await hub.publish(token, { channel: 'orders/1', data: 'paid' });
  await reader.seen('paid');
});

test('without credentials the cookie stays away, and nobody is nobody', async () => {
  const reader = await reading(allowed, '', { withCredentials: false });
  await assert.rejects(reader.opened(), /closed for good/);
});

test('another page reads nothing, with the cookie or with a token', async () => {
  await assert.rejects((await reading(foreign, '', { withCredentials: true })).opened(), /closed for good/);
  await assert.rejects((await reading(foreign, `&token=${token}`, {})).opened(), /closed for good/);
});

test('a channel that was not granted is refused', async () => {
  const page = await ReadingPage.open(chromium, allowed.origin, { cookie: token });
  const reader = await page.read('EventSource', hub.events('accounts/1'), { types: ['message'], withCredentials: true });
  await assert.rejects(reader.opened(), /closed for good/);
});
