// Peers that vanish without a word are found and freed, whether events or only heartbeats are sent to them.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { BlackHole } from './harness/black_hole.mjs';
import { BlockReader } from './harness/block.mjs';
import { Tidings } from './harness/tidings.mjs';
import { PlainReader } from './readers/plain.mjs';
import { Reading } from './readers/reading.mjs';

/** The server gives up on unacknowledged bytes after 45 s; the rest is for a busy machine. */
const FREED_WITHIN_MS = 60_000;
const EVERY_MS = 200;
const BUSY = 'dead/busy';
const QUIET = 'dead/quiet';

let hole;
let hub;
const readers = [];
before(async () => {
  hole = await BlackHole.dig();
  hub = await Tidings.start({ host: hole.host, config: 'heartbeat = "1s"\n' });
});
after(async () => {
  try {
    for (const reader of readers) await reader.close();
    await hub?.stop();
  } finally {
    await hole?.close();
  }
});

test('black-holed peers are freed, and nobody else notices', async (context) => {
  const admin = await hub.token({ sub: 'admin', publish: ['**'], admin: true });
  const get = (path) => asked(`${hub.url}${path}`, admin);
  const users = async () => (await get('/connections')).connections.map(({ user }) => user).sort();
  const token = (sub) => hub.token({ sub, subscribe: ['dead/*'] });

  const healthy = new PlainReader(hub.events(BUSY), { token: await token('healthy') });
  const busy = new CurlInside(hole, hub.events(BUSY), await token('busy'));
  const quiet = new CurlInside(hole, hub.events(QUIET), await token('quiet'));
  readers.push(healthy, busy, quiet);
  for (const reader of readers) await reader.opened();

  const published = [];
  const publish = async (channel) => {
    const data = `event ${published.length}`;
    return { id: await hub.publish(admin, { channel, data }), type: 'message', data };
  };
  published.push(await publish(BUSY));
  const heard = await publish(QUIET);
  for (const reader of [healthy, busy]) await reader.seen(published[0].data);
  await quiet.seen(heard.data);
  assert.deepEqual(await users(), ['busy', 'healthy', 'quiet']);
  assert.equal((await hole.sockets()).length, 2);

  const { heartbeats } = await get('/stats');
  await hole.cutOff();
  const cut = Date.now();
  const gone = {};
  while (!(gone.busy && gone.quiet)) {
    const seconds = (Date.now() - cut) / 1000;
    const now = await users();
    for (const user of ['busy', 'quiet']) if (!now.includes(user)) gone[user] ??= seconds;
    assert.ok(now.includes('healthy'), 'the healthy client lost its stream');
    assert.ok(Date.now() - cut < FREED_WITHIN_MS, `after ${seconds} s there still are ${now}`);
    published.push(await publish(BUSY));
    await sleep(EVERY_MS);
  }
  context.diagnostic(`freed after ${gone.busy} s with events, ${gone.quiet} s with heartbeats; ${published.length} events`);

  // Nobody was told of an end: neither the kernel here nor the clients, who still wait for what comes next.
  for (const reader of [busy, quiet]) reader.unharmed();
  busy.sawExactly(published.slice(0, 1));
  quiet.sawExactly([heard]);
  assert.deepEqual(await hole.sockets(), [], 'the kernel still keeps their sockets');
  const stats = await get('/stats');
  assert.equal(stats.connections, 1);
  assert.equal(stats.closed.gone, 2);
  assert.ok(stats.heartbeats > heartbeats, 'no heartbeat was sent to the quiet client');

  published.push(await publish(BUSY));
  await healthy.seen(published.at(-1).data);
  healthy.sawExactly(published);
  assert.equal(healthy.opens, 1, 'the healthy client had to come back');
});

async function asked(url, token) {
  const answer = await fetch(url, { headers: { authorization: `Bearer ${token}` } });
  assert.equal(answer.status, 200, url);
  return answer.json();
}

/** `curl -N` behind the black hole: one stream, whose end is a failure. */
class CurlInside extends Reading {
  #child;
  #closed = false;

  constructor(hole, url, token) {
    super();
    // It ends by itself should this process be killed: it is never told that nobody reads what it would print.
    const args = ['-sN', '--max-time', '120', '--no-keepalive', '-H', `Authorization: Bearer ${token}`, '-H', 'Accept: text/event-stream', url];
    const [program, ...rest] = hole.within('curl', ...args);
    const child = (this.#child = spawn(program, rest, { stdio: ['ignore', 'pipe', 'inherit'] }));
    const blocks = new BlockReader();
    child.stdout.on('data', (bytes) => {
      try {
        for (const event of blocks.read(bytes)) this.see(event);
      } catch (error) {
        this.fail(error);
      }
    });
    child.on('error', (error) => this.fail(error));
    child.on('exit', (status) => this.#closed || this.fail(new Error(`curl ended with ${status}: its stream had an end`)));
  }

  async close() {
    this.#closed = true;
    if (this.#child.exitCode !== null || this.#child.signalCode) return;
    this.#child.kill('SIGKILL');
    await once(this.#child, 'exit');
  }
}
