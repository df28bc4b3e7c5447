// Many nodes on one Redis while nodes die and stand still, their connections are cut, held, refused and slow, and Redis
// dies, is emptied and is changed by others: nothing is lost without a gap, no gap is said for nothing, nothing is
// doubled or out of order.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { FaultProxy } from './harness/fault_proxy.mjs';
import { Redis } from './harness/redis.mjs';
import { Scene, rounds } from './harness/scene.mjs';
import { PATIENCE_MS } from './harness/watched.mjs';

const ROUNDS = {
  node: rounds('NODE_KILLS', 4), // kill -9 and start again
  redis: rounds('REDIS_KILLS', 3), // the same for Redis
  stop: rounds('STOPS', 1), // a node stands still for longer than its leases
  cut: rounds('CUTS', 3), // CLIENT KILL of all that nodes have open
  fault: rounds('FAULTS', 6), // the network between nodes and Redis is bad
  flush: rounds('FLUSHES', 1), // FLUSHALL while nothing is under way
  flushUnderWay: rounds('FLUSHES', 1), // FLUSHALL while publishers go on
  keys: rounds('KEYS', 5), // keys are deleted, or are something else
};
/** Longer than a lease (6 s). */
const STANDSTILL_MS = 7_500;
/** A node has seen by then that its log is another one; until then it gives what it remembers. It sends nothing for longer than 2 s. */
const KNOWN_MS = 2_500;
const FAULTS = [
  { cuts: true },
  { holds: [{ ways: ['up', 'down'] }] },
  // What is sent arrives and is done, and nobody learns of it.
  { holds: [{ ways: ['down'] }] },
  // What is sent arrives when its sender has long given up.
  { holds: [{ ways: ['up'] }] },
  { refuses: true },
  // Some of it for longer than is waited for.
  { delays: 1_500 },
];
const LOG = 'tidings:{tidings}:log';
const META = 'tidings:{tidings}:meta';

test(`chaos: ${Object.entries(ROUNDS).map(([what, times]) => `${times} × ${what}`).join(', ')}`, async (context) => {
  const redis = await Redis.start();
  // One for each node, so that one alone can be cut off.
  const proxies = [];
  try {
    for (let index = 0; index < 3; index++) proxies.push(await FaultProxy.before(redis.port));
    const losses = new Losses();
    const options = { url: (index) => `redis://127.0.0.1:${proxies[index].port}`, ack: 'aof', mayRepeat: (...event) => losses.mayRepeat(...event) };
    await Scene.play(context, options, async (scene) => {
      await unrest(scene, { redis, proxies, losses });
      await scene.judge(context, losses.count);
      if (ROUNDS.flushUnderWay > 0) assert.ok(scene.repeated > 0, 'nothing was stored in two logs');
      await nothingIsOn(scene, NEVER);
    });
  } finally {
    for (const proxy of proxies) await proxy.stop();
    await redis.stop();
  }
});

async function unrest(scene, { redis, proxies, losses }) {
  scene.begin();
  const { nodes, publishers } = scene;
  let faults = 0;
  let keys = 0;
  const deeds = {
    async node() {
      const node = oneOf(nodes);
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
      const node = oneOf(nodes);
      node.suspend();
      await sleep(STANDSTILL_MS);
      node.resume();
    },
    async cut() {
      await redis.run('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
    },
    async fault() {
      const weather = FAULTS[faults++ % FAULTS.length];
      const struck = Math.random() < 0.5 ? proxies : [oneOf(proxies)];
      const cuts = () => struck.reduce((sum, proxy) => sum + proxy.cuts, 0);
      const before = cuts();
      scene.deeds.push(`${JSON.stringify(weather)} of ${struck.length}`);
      for (const proxy of struck) await proxy.be(weather);
      await sleep(500 + Math.random() * 3_000);
      while (weather.cuts && cuts() === before) await sleep(50);
      for (const proxy of struck) await proxy.be({});
    },
    async flush() {
      await losses.one(scene, async () => {
        // What is sent again after this can't be known as the same: idempotency keys, and what nodes have sent, are gone
        // with the log. So nothing is under way, in a client or in a node that still tries.
        for (const publisher of publishers) await publisher.pause();
        await sleep(KNOWN_MS);
        await redis.run('FLUSHALL');
        for (const publisher of publishers) publisher.resume();
      });
    },
    async flushUnderWay() {
      // A node has stored something, others have shown it, and the answer never came: it is sent again after FLUSHALL.
      const proxy = oneOf(proxies);
      await losses.one(scene, () => losses.underWay(scene, async () => {
        await scene.unanswered((on) => proxy.be(on ? { holds: [{ ways: ['down'] }] } : {}));
        await redis.run('FLUSHALL');
        proxy.reset();
        await proxy.be({});
      }));
    },
    async keys() {
      const [what, change] = KEYS[keys++ % KEYS.length];
      scene.deeds.push(what);
      await change(scene, redis, losses);
    },
  };
  for (const deed of shuffled(Object.entries(ROUNDS).flatMap(([name, times]) => Array(times).fill(name)))) {
    await sleep(100 + Math.random() * 300);
    scene.deeds.push(deed);
    await deeds[deed]();
    await scene.progress(deed);
  }
}

/** What others do to the keys of a log, and how it is put right. */
const KEYS = [
  ...[LOG, META].map((key) => [
    `DEL ${key}`,
    (scene, redis, losses) => losses.one(scene, () => losses.underWay(scene, () => redis.run('DEL', key))),
  ]),
  [
    `SET ${LOG}`,
    (scene, redis, losses) => losses.one(scene, () => losses.underWay(scene, async () => {
      await redis.run('SET', LOG, 'mine');
      await isTrouble(scene);
      await redis.run('DEL', LOG);
    })),
  ],
  // Here it can be put right without a loss.
  ...[LOG, META].map((key) => [
    `RENAME ${key} and SET it`,
    async (scene, redis) => {
      const away = `${key}:away`;
      await redis.run('EVAL', "redis.call('RENAME', KEYS[1], KEYS[2]) redis.call('SET', KEYS[1], 'mine')", '2', key, away);
      await isTrouble(scene);
      await redis.run('RENAME', away, key);
    },
  ]),
];
const NEVER = 'never';

/** All nodes say so, and store nothing. */
async function isTrouble({ nodes, token }) {
  const headers = { authorization: `Bearer ${token}` };
  const deadline = Date.now() + PATIENCE_MS;
  for (const node of nodes) {
    for (;;) {
      const { log } = await (await fetch(`${node.url}/stats`, { headers })).json();
      if (log.trouble?.includes('WRONGTYPE')) break;
      assert.ok(Date.now() < deadline, `no trouble is said: ${JSON.stringify(log)}`);
      await sleep(20);
    }
  }
  await Promise.all(nodes.map(async (node) => {
    const answer = await fetch(`${node.url}/publish`, { method: 'POST', headers: { ...headers, 'content-type': 'application/json' }, body: JSON.stringify({ channel: NEVER, data: NEVER }) });
    const problem = await answer.json();
    assert.equal(answer.status, 503, JSON.stringify(problem));
    assert.match(problem.type, /not_stored$/);
    assert.match(problem.detail, /WRONGTYPE/);
  }));
}

/** What was answered `not_stored` is nowhere. */
async function nothingIsOn({ nodes, token }, channel) {
  for (const node of nodes) {
    const answer = await fetch(`${node.url}/history?channel=${channel}`, { headers: { authorization: `Bearer ${token}` } });
    assert.deepEqual((await answer.json()).events, []);
  }
}

/** How often the log was lost, and what was under way then: that may be stored in both logs. */
class Losses {
  count = 0;
  #spans = [];

  /** Loses the log. One subscriber is away meanwhile, and so loses what was stored since it left. */
  async one(scene, lose) {
    const away = scene.subscribers[this.count++ % scene.subscribers.length];
    await away.leave();
    await scene.progress('start');
    await lose();
    await scene.progress('loss');
    await sleep(KNOWN_MS);
    away.comeBack();
  }

  /** @param lose what is answered before it is surely in the log that is lost, and what is sent behind it in the next */
  async underWay({ publishers }, lose) {
    const span = { from: publishers.map(({ acknowledged }) => acknowledged.at(-1)?.number ?? 0) };
    this.#spans.push(span);
    await lose();
    span.to = publishers.map(({ number }) => number);
  }

  mayRepeat(publisher, number) {
    return this.#spans.some(({ from, to }) => number > from[publisher] && number <= (to?.[publisher] ?? Infinity));
  }
}

function oneOf(list) {
  return list[Math.floor(Math.random() * list.length)];
}

function shuffled(list) {
  return list.map((value) => ({ value, by: Math.random() })).sort((a, b) => a.by - b.by).map(({ value }) => value);
}
