// Many nodes on one Redis while nodes die, stand still, lose their connections, and Redis dies, fails over and is emptied:
// nothing is lost without a gap, no gap is said for nothing, nothing is doubled or out of order.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { TcpBalancer } from './harness/balancers.mjs';
import { BlockReader } from './harness/block.mjs';
import { Redis, SYNCED } from './harness/redis.mjs';
import { Tidings } from './harness/tidings.mjs';
import { PATIENCE_MS, Watched } from './harness/watched.mjs';

const count = (name, usual) => Number(process.env[`TIDINGS_CHAOS_${name}`] ?? usual);
const ROUNDS = {
  node: count('NODE_KILLS', 4), // kill -9 and start again
  redis: count('REDIS_KILLS', 3), // the same for Redis
  stop: count('STOPS', 1), // a node stands still for longer than its leases
  cut: count('CUTS', 3), // CLIENT KILL of all that nodes have open
  flush: count('FLUSHES', 1), // FLUSHALL
};
const FAILOVERS = count('FAILOVERS', 2);

const SECRET = 'a secret that all of these nodes share';
const CHANNELS = ['chaos/a', 'chaos/b', 'chaos/c'];
const VIEWS = [['chaos/*'], ['chaos/*'], ['chaos/*'], ['chaos/a'], ['chaos/b', 'chaos/c'], CHANNELS];
const PUBLISHERS = 4;
/** Longer than a lease (6 s). */
const STANDSTILL_MS = 7_500;
/** A client that heard nothing for so long (heartbeats come each second) goes elsewhere. */
const SILENCE_MS = 3_000;
const LOST = ['ECONNREFUSED', 'ECONNRESET', 'EPIPE', 'UND_ERR_SOCKET'];

test(`chaos: ${Object.entries(ROUNDS).map(([what, times]) => `${times} × ${what}`).join(', ')}`, async (context) => {
  const redis = await Redis.start();
  try {
    await run(context, redis.url, 'aof', (scene) => unrest(scene, redis));
  } finally {
    await redis.stop();
  }
});

test(`${FAILOVERS} failovers by a Sentinel: with "wait 1" nothing is lost at all`, async (context) => {
  const first = await Redis.start([...SYNCED, '--repl-diskless-sync-delay', '0']);
  const second = await Redis.start([...SYNCED, '--repl-diskless-sync-delay', '0', '--replicaof', '127.0.0.1', String(first.port)]);
  let sentinel;
  try {
    await first.wait('the replica', ['INFO', 'replication'], (answer) => answer.includes('state=online'));
    sentinel = await first.watchedBySentinel();
    await run(context, `redis+sentinel://127.0.0.1:${sentinel.port}/main`, 'wait 1', (scene) => failovers(scene, sentinel, [first, second]));
  } finally {
    for (const server of [sentinel, first, second]) await server?.stop();
  }
});

async function run(context, url, ack, body) {
  const config = `log = "redis"\nretry = "50ms"\nheartbeat = "1s"\ndrain = "1s"\n[redis]\nurl = "${url}"\nack = "${ack}"\n[limits]\nper_user = 1000\n`;
  const closing = [];
  try {
    const nodes = [];
    for (let index = 0; index < 3; index++) {
      const node = await Tidings.start({ config, env: { TIDINGS_JWT_SECRET: SECRET } });
      nodes.push(node);
      closing.push(() => node.stop());
    }
    const balancer = await TcpBalancer.before(nodes.map(({ port }) => port));
    closing.push(() => balancer.stop());
    const token = await nodes[0].token({ sub: 'chaos', subscribe: ['**'], publish: ['**'] });
    const subscribers = VIEWS.map((views) => new Subscriber(balancer.url, token, views));
    for (const subscriber of subscribers) closing.push(() => subscriber.close());
    for (const subscriber of subscribers) await subscriber.until(() => subscriber.opens > 0, 'a stream');
    const publishers = Array.from({ length: PUBLISHERS }, (_, index) => new Publisher(balancer.url, token, index));
    for (const publisher of publishers) closing.push(() => publisher.stop());
    const scene = { nodes, subscribers, publishers, flushes: 0, deeds: [] };
    // Subscribers move between nodes all the while.
    const moving = setInterval(() => subscribers[Math.floor(Math.random() * subscribers.length)].lose(), 150);
    closing.push(() => clearInterval(moving));
    try {
      await body(scene);
      await judge(scene, context);
    } catch (failure) {
      context.diagnostic(`it failed after ${scene.deeds.join(', ')}`);
      throw failure;
    }
  } finally {
    for (const close of closing.reverse()) await close();
  }
}

async function unrest(scene, redis) {
  const { nodes, publishers } = scene;
  const deeds = {
    async node() {
      const node = nodes[Math.floor(Math.random() * nodes.length)];
      await node.kill9();
      await sleep(Math.random() * 500);
      await node.restart();
    },
    async redis() {
      await redis.kill9();
      await sleep(Math.random() * 500);
      await redis.restart();
    },
    async stop() {
      const node = nodes[Math.floor(Math.random() * nodes.length)];
      node.suspend();
      await sleep(STANDSTILL_MS);
      node.resume();
    },
    async cut() {
      await redis.run('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
    },
    async flush() {
      scene.flushes += 1;
      // One is away, and will have lost what comes now.
      const away = scene.subscribers[scene.flushes % scene.subscribers.length];
      away.leave();
      await progress(scene, 'start');
      // What is sent again after this can't be known as the same: idempotency keys, and what nodes have sent, are gone
      // with the log. So nothing is under way, in a client or in a node that still tries (2 s).
      for (const publisher of publishers) await publisher.pause();
      await sleep(2_500);
      await redis.run('FLUSHALL');
      for (const publisher of publishers) publisher.resume();
      // By then all nodes have seen that the log is another one; until then they give what they remember.
      await sleep(2_500);
      away.comeBack();
    },
  };
  for (const deed of shuffled(Object.entries(ROUNDS).flatMap(([name, times]) => Array(times).fill(name)))) {
    await sleep(100 + Math.random() * 300);
    scene.deeds.push(deed);
    await deeds[deed]();
    await progress(scene, deed);
  }
}

async function failovers(scene, sentinel, servers) {
  for (let round = 0; round < FAILOVERS; round++) {
    await sleep(100 + Math.random() * 300);
    const ports = servers.map(({ port }) => String(port));
    const [, before] = (await sentinel.run('SENTINEL', 'get-master-addr-by-name', 'main')).split('\n');
    const next = servers[1 - ports.indexOf(before)];
    await next.wait('the replica to follow', ['INFO', 'replication'], (answer) => answer.includes('role:slave') && answer.includes('master_link_status:up'));
    scene.deeds.push('failover');
    await sentinel.wait('the failover to begin', ['SENTINEL', 'FAILOVER', 'main'], (answer) => answer === 'OK');
    await next.wait('the failover', ['INFO', 'replication'], (answer) => answer.includes('role:master') && answer.includes('state=online'));
    await progress(scene, 'failover');
  }
}

/** Publishing goes on: each publisher is answered again. */
async function progress({ publishers }, deed) {
  const before = publishers.map(({ acknowledged }) => acknowledged.length);
  for (const [index, publisher] of publishers.entries()) {
    await publisher.until(() => publisher.acknowledged.length > before[index] + 1, `a publish after a ${deed}; last ${publisher.last}`);
  }
}

async function judge({ nodes, subscribers, publishers, flushes }, context) {
  for (const publisher of publishers) await publisher.stop();
  // A last event to each channel, behind which nothing can come.
  const ends = [];
  for (const publisher of publishers) for (const channel of CHANNELS) ends.push(await publisher.publish(channel));
  for (const subscriber of subscribers) {
    const wanted = ends.filter(({ channel }) => subscriber.wants(channel));
    await subscriber.until(
      () => wanted.every(({ data }) => subscriber.seen.has(data)),
      () => `the last events on ${subscriber.views}; nodes said ${nodes.map(({ log }) => log.slice(-500)).join('\n')}`,
    );
  }
  let gaps = 0;
  let lost = 0;
  for (const subscriber of subscribers) {
    assert.ok(subscriber.gaps.length <= flushes, `${subscriber.gaps.length} gaps after ${flushes} times FLUSHALL: ${JSON.stringify(subscriber.gaps)}`);
    gaps += subscriber.gaps.length;
    for (const publisher of publishers) {
      for (const { number, channel, data } of publisher.acknowledged) {
        if (!subscriber.wants(channel) || subscriber.seen.has(data)) continue;
        lost += 1;
        const told = subscriber.gaps.some(({ before, after }) => number > (before[publisher.index] ?? 0) && number < (after[publisher.index] ?? Infinity));
        assert.ok(told, `${data} was lost on ${subscriber.views} and no gap said so: ${JSON.stringify(subscriber.gaps)}`);
      }
    }
  }
  // One order for all: what two have in common, they have in the same order.
  const [whole, ...others] = subscribers;
  for (const other of others) {
    const common = (one, two) => one.order.filter((data) => two.seen.has(data));
    assert.deepEqual(common(other, whole), common(whole, other), `${other.views} saw another order`);
  }
  if (flushes > 0) assert.ok(lost > 0, 'FLUSHALL took nothing from anybody');
  const acknowledged = publishers.reduce((sum, publisher) => sum + publisher.acknowledged.length, 0);
  const again = publishers.reduce((sum, publisher) => sum + publisher.again, 0);
  const opens = subscribers.reduce((sum, subscriber) => sum + subscriber.opens, 0);
  assert.ok(again > 0, 'no publish ever met any of this');
  context.diagnostic(`${acknowledged} events acknowledged, ${again} sends repeated, ${opens} streams opened, ${gaps} gaps said for ${lost} deliveries lost by FLUSHALL`);
}

/** Publishes numbered events, each as often as it takes to be answered, under the same idempotency key. */
class Publisher extends Watched {
  number = 0;
  acknowledged = [];
  /** How many sends were not answered with 200. */
  again = 0;
  last = 'nothing';
  #paused = false;
  #idle = false;
  #stopped = false;

  constructor(url, token, index) {
    super();
    Object.assign(this, { url, token, index });
    this.running = this.#run();
    // Looked at where it is stopped.
    this.running.catch(() => {});
  }

  /** Waits until what is under way is answered. */
  async pause() {
    this.#paused = true;
    await this.until(() => this.#idle, 'a publisher to pause');
  }

  resume() {
    this.#paused = false;
    this.notify();
  }

  async stop() {
    this.#stopped = true;
    await this.running;
  }

  async #run() {
    while (!this.#stopped) {
      if (this.#paused) {
        this.#idle = true;
        this.notify();
        await this.until(() => !this.#paused, 'a publisher to go on');
        this.#idle = false;
      }
      await this.publish(CHANNELS[Math.floor(Math.random() * CHANNELS.length)]);
      await sleep(Math.random() * 10);
    }
  }

  async publish(channel) {
    const number = ++this.number;
    const data = `${this.index} ${number} ${channel}`;
    const deadline = Date.now() + PATIENCE_MS;
    while (!(await this.#send({ channel, data, idempotency_key: data }))) {
      this.again += 1;
      assert.ok(Date.now() < deadline, `${data} is not stored: ${this.last}`);
      await sleep(20);
    }
    const event = { number, channel, data };
    this.acknowledged.push(event);
    this.notify();
    return event;
  }

  async #send(body) {
    try {
      const answer = await fetch(`${this.url}/publish`, {
        method: 'POST',
        headers: { authorization: `Bearer ${this.token}`, 'content-type': 'application/json', connection: 'close' },
        body: JSON.stringify(body),
        signal: AbortSignal.timeout(SILENCE_MS),
      });
      this.last = `${answer.status} ${await answer.text()}`;
      if (answer.status !== 200) assert.equal(answer.status, 503, this.last);
      return answer.status === 200;
    } catch (error) {
      if (error.name !== 'TimeoutError' && !LOST.includes(error.cause?.code)) throw error;
      this.last = error.cause?.code ?? error.name;
      return false;
    }
  }
}

/** Reads its views from the beginning to the end, on whichever node it meets. */
class Subscriber extends Watched {
  opens = 0;
  /** The id of each event, by its data. */
  seen = new Map();
  /** Data in the order in which it came. */
  order = [];
  /** Each with the newest number of each publisher before it, and the first behind it. */
  gaps = [];
  #newest = {};
  #ids = new Set();
  #lastId;
  /** The ids that it came back with. */
  #resumed = [];
  #closed = false;
  #away = false;
  #failure;
  #abort = new AbortController();

  constructor(url, token, views) {
    super();
    Object.assign(this, { url: `${url}/events?${views.map((view) => `channel=${encodeURIComponent(view)}`).join('&')}`, token, views });
    this.running = this.#run().catch((error) => {
      this.#failure = error;
      this.notify();
    });
  }

  wants(channel) {
    return this.views.some((view) => view === channel || view === 'chaos/*');
  }

  until(condition, what) {
    return super.until(() => {
      if (this.#failure) throw this.#failure;
      return condition();
    }, what);
  }

  lose() {
    this.#abort.abort();
  }

  /** Stays away until it comes back. */
  leave() {
    this.#away = true;
    this.lose();
  }

  comeBack() {
    this.#away = false;
    this.notify();
  }

  async close() {
    this.#closed = true;
    this.comeBack();
    this.lose();
    await this.running;
  }

  async #run() {
    while (!this.#closed) {
      if (this.#away) await this.until(() => !this.#away, 'a subscriber to come back');
      await this.#read();
      await sleep(Math.random() * 60);
    }
  }

  async #read() {
    const abort = (this.#abort = new AbortController());
    let silence = setTimeout(() => abort.abort(), SILENCE_MS);
    try {
      const headers = { authorization: `Bearer ${this.token}`, accept: 'text/event-stream' };
      if (this.#lastId) headers['last-event-id'] = this.#lastId;
      this.#resumed.push(this.#lastId);
      const answer = await fetch(this.url, { headers, signal: abort.signal });
      // A node that starts or ends takes no streams.
      if (answer.status === 503) return;
      assert.equal(answer.status, 200);
      const blocks = new BlockReader();
      for await (const bytes of answer.body) {
        silence.refresh();
        for (const event of blocks.read(bytes)) this.#take(event);
      }
    } catch (error) {
      if (error instanceof assert.AssertionError || !(abort.signal.aborted || LOST.includes(error.code ?? error.cause?.code))) throw error;
    } finally {
      clearTimeout(silence);
      abort.abort();
    }
  }

  /** What helps to find out why. */
  #story(data, id) {
    const at = this.order.indexOf(data);
    const events = [...this.order.slice(at - 2, at + 3), '…', ...this.order.slice(-3)].map((text) => `${text} = ${this.seen.get(text)}`);
    return `now ${id}; ${events.join('; ')}; resumed behind ${this.#resumed.slice(-3).join(', ')}; ${JSON.stringify(this.gaps)}`;
  }

  #take({ id, type, data }) {
    this.#lastId = id;
    if (type === 'tidings:open') this.opens += 1;
    if (type === 'tidings:gap') this.gaps.push({ said: data, before: { ...this.#newest }, after: {} });
    if (!type.startsWith('tidings:')) {
      const [publisher, digits, channel] = data.split(' ');
      const number = Number(digits);
      assert.ok(this.wants(channel), `${this.views} got ${data}`);
      assert.ok(!this.seen.has(data), `${data} came twice on ${this.views}: ${this.#story(data, id)}`);
      assert.ok(!this.#ids.has(id), `${data} came with an id seen before`);
      assert.ok(number > (this.#newest[publisher] ?? 0), `${data} after number ${this.#newest[publisher]}`);
      this.#newest[publisher] = number;
      for (const gap of this.gaps) gap.after[publisher] ??= number;
      this.#ids.add(id);
      this.seen.set(data, id);
      this.order.push(data);
    }
    this.notify();
  }
}

function shuffled(list) {
  return list.map((value) => ({ value, by: Math.random() })).sort((a, b) => a.by - b.by).map(({ value }) => value);
}
