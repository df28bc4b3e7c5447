// The first minute: `serve --dev`, the page at the address it prints, an event by the `curl` shown there, a kill.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { startChromium } from './harness/browsers.mjs';
import { Tidings } from './harness/tidings.mjs';

let hub;
let chromium;
before(async () => {
  hub = await Tidings.start({ args: ['--dev'] });
  chromium = await startChromium();
});
after(async () => {
  await chromium?.stop();
  await hub?.stop();
});

test('the page shows events as they come, and that a killed server lost none', async () => {
  const address = hub.log.match(/http:\/\/[\w.:[\]-]+[\w/.]*/)?.[0];
  assert.ok(address, `no address was printed:\n${hub.log}`);
  const page = await chromium.newPage();
  const errors = [];
  page.on('pageerror', (error) => errors.push(error));
  await page.goto(address);
  await shows(page, '#status', 'connected');

  const command = await page.locator('#curl').textContent();
  assert.match(command, /^curl /);
  await promisify(execFile)('bash', ['-c', command]);
  await shows(page, '#events', 'Hello from Tidings');

  await publish('before the kill');
  await shows(page, '#events', 'before the kill');
  await hub.kill9();
  await shows(page, '#status', 'lost');
  await hub.restart();
  await publish('while the page was away');
  await shows(page, '#status', 'nothing was missed');
  await shows(page, '#events', 'while the page was away');
  await publish('after it came back');
  await shows(page, '#events', 'after it came back');

  const shown = await page.locator('#events li.event .data').allTextContents();
  assert.deepEqual(shown, ['after it came back', 'while the page was away', 'before the kill', 'Hello from Tidings']);
  assert.deepEqual(errors, []);
});

async function shows(page, selector, text) {
  await page.locator(selector, { hasText: text }).waitFor({ timeout: 60_000 });
}

/** As with `curl -d`: who may do anything needs no token. */
async function publish(text) {
  const answer = await fetch(`${hub.url}/publish?channel=demo/test`, { method: 'POST', body: text });
  assert.equal(answer.status, 200, await answer.text());
}
