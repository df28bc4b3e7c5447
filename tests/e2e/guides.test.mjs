// The scripts for pages in docs/, as they stand there, in a browser.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { after, before, test } from 'node:test';
import { startChromium } from './harness/browsers.mjs';
import { Tidings } from './harness/tidings.mjs';
import { PATIENCE_MS } from './harness/watched.mjs';

let hub;
let chromium;
before(async () => {
  hub = await Tidings.start({ args: ['--dev', '--retry', '50ms'] });
  chromium = await startChromium();
});
after(async () => {
  await chromium?.stop();
  await hub?.stop();
});

/** A page of the hub's origin that runs the script of a guide, and keeps what it shows. */
async function open(guide, more = '') {
  const text = await readFile(new URL(`../../docs/${guide}`, import.meta.url), 'utf8');
  const script = text.match(/```js\n([^]*?)```/)[1];
  const page = await chromium.newPage();
  const errors = [];
  page.on('pageerror', (error) => errors.push(error));
  await page.goto(`${hub.url}/healthz`);
  // An element, so that what it declares is there for what comes later.
  await page.evaluate(
    (text) => { document.head.append(Object.assign(document.createElement('script'), { text })) },
    `const shown = []; const show = (...what) => { shown.push(what) };\n${script}\n${more}`,
  );
  return {
    evaluate: (expression) => page.evaluate(expression),
    /** Waits until something is true in the page. */
    until: (expression) => page.waitForFunction(expression, undefined, { timeout: PATIENCE_MS }),
    close: () => {
      assert.deepEqual(errors, []);
      return page.close();
    },
  };
}

async function publish(event) {
  const answer = await fetch(`${hub.url}/publish`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(event),
  });
  assert.equal(answer.status, 200, await answer.text());
}

test('conflation.md: a page shows the newest states and what follows', async () => {
  const say = (room, celsius) => publish({ channel: 'rooms', key: room, data: { room, celsius } });
  for (const celsius of [18, 18.5, 19]) await say('kitchen', celsius);
  await say('bedroom', 21.5);
  const page = await open('conflation.md');
  await page.until('shown.length == 2');
  await say('kitchen', 20);
  await page.until('shown.length == 3');
  assert.deepEqual(await page.evaluate('shown'), [['kitchen', 19], ['bedroom', 21.5], ['kitchen', 20]]);
  await page.close();
});

test('ends.md: a page is done when the import is, and its stream stays away', async () => {
  const progress = (done, end = false) =>
    publish({ channel: 'import/1', key: 'progress', event: 'progress', data: { done }, end });
  await progress(25);
  const page = await open('ends.md');
  await page.until('shown.length == 1');
  await progress(100, true);
  await page.until(`events.readyState == EventSource.CLOSED`);
  assert.deepEqual(await page.evaluate('shown'), [[25], [100], ['done']]);
  await page.close();
});

test('live-subscriptions.md: channels are added to a running stream, and nothing is missed over a loss', async () => {
  const page = await open('live-subscriptions.md', 'connect()');
  await page.until('typeof handle == "object"');
  await publish({ channel: 'chat/7', data: 'said before' });
  const before = await page.evaluate(`add('chat/7').then((answer) => answer.json())`);
  assert.deepEqual(before.events.map((event) => event.data), ['said before']);
  await publish({ channel: 'chat/7', data: 'said after' });
  await page.until('shown.length == 1');
  const connection = await page.evaluate('handle.connection');
  // Two losses: the second is one of the stream that asked for all channels itself.
  for (const round of [1, 2]) {
    await hub.kill9();
    await hub.restart();
    await publish({ channel: 'chat/7', data: `said while it was away, ${round}` });
    await publish({ channel: 'orders/7', data: `paid, ${round}` });
    await page.until(`shown.length == ${1 + 2 * round}`);
  }
  await page.until(`handle.connection != ${JSON.stringify(connection)}`);
  assert.deepEqual((await page.evaluate('shown')).flat(), [
    'said after',
    'said while it was away, 1',
    'paid, 1',
    'said while it was away, 2',
    'paid, 2',
  ]);
  await page.close();
});

test('presence.md: a page knows how many are there', async () => {
  const page = await open('presence.md');
  await page.until('shown.length == 1');
  const other = await open('presence.md');
  await page.until('shown.length == 2');
  // Nobody is anybody with --dev.
  assert.deepEqual(await page.evaluate('shown'), [[[], 1], [[], 2]]);
  await other.close();
  await page.close();
});
