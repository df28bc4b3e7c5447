// Three nodes as `deploy/` describes them, behind its balancers: a node dies with streams on it, a node is cut off from
// Redis, and Redis goes away.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { parse } from 'yaml';
import { Balancer, balancers, deployed } from './harness/balancers.mjs';
import { FaultProxy } from './harness/fault_proxy.mjs';
import { Redis } from './harness/redis.mjs';
import { Tidings, binary } from './harness/tidings.mjs';
import { PATIENCE_MS } from './harness/watched.mjs';
import { PlainReader } from './readers/plain.mjs';

const SECRET = 'a secret that all of these nodes share';
const compose = parse(await deployed('compose.yaml'), { merge: true });
const services = Object.entries(compose.services).filter(([name]) => name.startsWith('node-'));

/** The environment of a service, with what its user has to say. */
function environment(service) {
  const env = { ...service.environment };
  const asked = Object.keys(env).filter((name) => /^\$\{.*:\?.*\}$/.test(env[name]));
  assert.deepEqual(asked, ['TIDINGS_JWT_SECRET', 'TIDINGS_API_KEY']);
  return { ...env, TIDINGS_JWT_SECRET: SECRET, TIDINGS_API_KEY: 'the key of all of these nodes' };
}

/** Redis and its nodes with the settings of `deploy/compose.yaml`, on addresses of this machine; each node has Redis by a proxy of its own. */
async function withNodes(body) {
  const closing = [];
  try {
    const [program, ...args] = compose.services.redis.command;
    assert.equal(program, 'redis-server');
    const redis = await Redis.start(args);
    closing.push(() => redis.stop());
    const proxies = [];
    for (const _ of services) {
      const proxy = await FaultProxy.before(redis.port);
      proxies.push(proxy);
      closing.push(() => proxy.stop());
    }
    const nodes = await Promise.all(
      services.map(async ([, service], index) => {
        const { TIDINGS_LISTEN, TIDINGS_DATA_DIR, ...env } = environment(service);
        assert.equal(env.TIDINGS_REDIS__URL, 'redis://redis:6379');
        const node = await Tidings.start({ config: 'retry = "50ms"\n', env: { ...env, TIDINGS_REDIS__URL: `redis://127.0.0.1:${proxies[index].port}` } });
        closing.push(() => node.stop());
        return node;
      }),
    );
    const token = await nodes[0].token({ sub: 'ana', subscribe: ['**'], publish: ['**'], admin: true });
    await body({ redis, proxies, nodes, token, closing });
  } finally {
    for (const close of closing.reverse()) await close();
  }
}

/** What a node says of itself. */
async function stats(node, token) {
  const answer = await fetch(`${node.url}/stats`, { headers: { authorization: `Bearer ${token}` } });
  return answer.json();
}

/** How many streams a node has. */
const streams = async (node, token) => (await stats(node, token)).connections;

async function publish(url, token, body) {
  const began = performance.now();
  let answer;
  try {
    answer = await fetch(`${url}/publish`, {
      method: 'POST',
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
      body: JSON.stringify(body),
    });
  } catch (error) {
    // HAProxy closes the client's connection where the node closed the one that it kept.
    if (!['UND_ERR_SOCKET', 'ECONNRESET'].includes(error.cause?.code)) throw error;
    return { status: 502, text: error.cause.code };
  }
  const text = await answer.text();
  const ms = performance.now() - began;
  if (answer.status === 200) return { status: 200, ms, id: JSON.parse(text).id, text };
  // The last word of a problem's type says which it is; a balancer's own answer has none.
  const kind = answer.headers.get('content-type')?.startsWith('application/problem+json') ? JSON.parse(text).type.split(/[/:#]/).at(-1) : undefined;
  return { status: answer.status, ms, kind, text };
}

/** Publishes until it is stored, under one idempotency key; answers the id, and adds what it was told before to `told`. */
async function publishUntilStored(url, token, body, told = []) {
  const deadline = Date.now() + PATIENCE_MS;
  for (;;) {
    const answer = await publish(url, token, { ...body, idempotency_key: body.data });
    if (answer.status === 200) return answer.id;
    told.push(answer);
    assert.ok(Date.now() < deadline, answer.text);
  }
}

test('compose.yaml: its nodes are accepted as they are', async () => {
  assert.equal(services.length, 3);
  for (const [name, service] of services) {
    const { stdout } = await promisify(execFile)(binary, ['check'], { env: { PATH: process.env.PATH, ...environment(service) } });
    for (const line of [/^log = "redis" /m, /^listen = "0\.0\.0\.0:4600" /m, /^ack = "aof" /m, /^per_address = 100000 /m]) {
      assert.match(stdout, line, name);
    }
    // Longer than a drain takes.
    assert.ok(parseInt(service.stop_grace_period) > 10);
    for (const balancer of ['haproxy.cfg', 'nginx.conf']) assert.match(await deployed(balancer), new RegExp(`server .*\\b${name}:4600`));
  }
});

for (const kind of balancers) {
  test(`${kind}: a node dies with streams on it, and nothing is lost, doubled or out of order`, async () => {
    await withNodes(async ({ nodes, token, closing }) => {
      const balancer = await Balancer.start(kind, nodes.map(({ port }) => port));
      closing.push(() => balancer.stop());
      const readers = Array.from({ length: 9 }, () => new PlainReader(`${balancer.url}/events?channel=deploy`, { token }));
      for (const reader of readers) {
        closing.push(() => reader.close());
        await reader.opened();
      }
      const spread = await Promise.all(nodes.map((node) => streams(node, token)));
      assert.deepEqual(spread.map((count) => count > 0), [true, true, true], `the streams are spread: ${spread}`);

      const expected = [];
      let failed = 0;
      const say = async (count) => {
        for (let index = 0; index < count; index++) {
          const data = `event ${expected.length}`;
          const body = { channel: 'deploy', data, idempotency_key: data };
          // A publish whose node died on it is not sent again by the balancer, but by who publishes.
          let answer = await publish(balancer.url, token, body);
          while (answer.status !== 200) {
            assert.ok([502, 503, 504].includes(answer.status), answer.text);
            failed += 1;
            answer = await publish(balancer.url, token, body);
          }
          expected.push({ id: answer.id, type: 'message', data });
        }
      };
      await say(10);
      for (const reader of readers) await reader.seen('event 9');
      await Promise.all([say(200), nodes[1].kill9()]);
      for (const reader of readers) await reader.seen('event 209');
      assert.ok(failed < 20, `${failed} publishes failed for one dead node`);
      // While it is away, nobody is sent there.
      failed = 0;
      await say(30);
      assert.equal(failed, 0);
      await nodes[1].restart();
      await say(30);
      for (const reader of readers) {
        await reader.seen('event 269');
        reader.sawExactly(expected);
      }
      const opens = readers.reduce((sum, reader) => sum + reader.opens, 0);
      assert.equal(opens, readers.length + spread[1], 'who was on the dead node came back once, and nobody else');
    });
  });
}

const HELD = { holds: [{ ways: ['up', 'down'] }] };

for (const kind of balancers) {
  for (const [how, weather] of [['refused', { refuses: true }], ['held', HELD]]) {
    test(`${kind}: a node whose connections to Redis are ${how} leaves to the others what it can't do`, async (context) => {
      await withNodes(async ({ proxies, nodes, token, closing }) => {
        const balancer = await Balancer.start(kind, nodes.map(({ port }) => port));
        closing.push(() => balancer.stop());
        const expected = [];
        const open = async (lastId) => {
          const reader = new PlainReader(`${balancer.url}/events?channel=cut`, { token, lastId });
          closing.push(() => reader.close());
          await reader.opened();
          return reader;
        };
        const say = async (url, told) => {
          const data = `event ${expected.length}`;
          expected.push({ id: await publishUntilStored(url, token, { channel: 'cut', data }, told), type: 'message', data });
        };
        const readers = [];
        while (readers.length < 9) readers.push(await open());
        assert.ok((await streams(nodes[1], token)) > 0);
        for (let n = 0; n < 5; n++) await say(balancer.url);
        for (const reader of readers) await reader.seen('event 4');

        await proxies[1].be(weather);
        for (let n = 0; n < 5; n++) await say(nodes[0].url);
        // Who has been elsewhere comes with an id that this node has not read.
        const REFUSED = /the log can't be read for a new stream/g;
        const comers = [];
        const met = () => nodes[1].log.match(REFUSED)?.length ?? 0;
        for (let n = 0; n < 3 || met() === 0; n++) {
          assert.ok(n < 60, 'the balancer never sent anybody to the node that is cut off');
          const began = performance.now();
          const comer = await open(expected[6].id);
          await comer.seen('event 9');
          comers.push({ comer, ms: performance.now() - began });
        }
        const told = [];
        const deadline = Date.now() + PATIENCE_MS;
        for (let n = 0; n < 8 || told.length === 0; n++) {
          assert.ok(Date.now() < deadline, 'the balancer never took a publish to the node that is cut off');
          await say(balancer.url, told);
          await sleep(50);
        }
        assert.ok(told.length < expected.length - 10, `${told.length} publishes failed for one node`);
        for (const { status, kind, text } of told) assert.ok(status === 503 && ['not_stored', 'unknown'].includes(kind), `${status} ${text}`);
        assert.equal((await fetch(`${nodes[1].url}/readyz`)).status, 200);
        const slowest = Math.max(...comers.map(({ ms }) => ms));
        context.diagnostic(`${comers.length} came with a newer id, ${met()} times to the node that is cut off, served after ${slowest.toFixed()} ms at most; ${told.length} of ${expected.length - 10} publishes were answered ${told.map(({ kind, ms }) => `${kind} after ${ms.toFixed()} ms`).join(', ')}`);

        await proxies[1].be({});
        await say(balancer.url);
        const last = expected.at(-1).data;
        for (const reader of readers) {
          await reader.seen(last);
          reader.sawExactly(expected);
        }
        for (const { comer } of comers) {
          await comer.seen(last);
          comer.sawExactly(expected.slice(7));
        }
        for (const reader of [...readers, ...comers.map(({ comer }) => comer)]) assert.equal(reader.opens, 1, 'its stream stayed');
      });
    });
  }
}

for (const kind of balancers) {
  test(`${kind}: without Redis streams are opened, however many publishes fail`, async () => {
    await withNodes(async ({ redis, nodes, token, closing }) => {
      const balancer = await Balancer.start(kind, nodes.map(({ port }) => port));
      closing.push(() => balancer.stop());
      const readers = nodes.map((node) => new PlainReader(node.events('away'), { token }));
      for (const reader of readers) {
        closing.push(() => reader.close());
        await reader.opened();
      }
      await publishUntilStored(balancer.url, token, { channel: 'away', data: 'before' });
      for (const reader of readers) await reader.seen('before');
      await redis.kill9();
      const answers = await Promise.all(Array.from({ length: 12 }, (_, n) => publish(balancer.url, token, { channel: 'away', data: `never ${n}` })));
      for (const { status, text } of answers) assert.ok([502, 503].includes(status), text);
      const answer = await fetch(`${balancer.url}/history?channel=away`, { headers: { authorization: `Bearer ${token}` } });
      assert.equal(answer.status, 200);
      for (let n = 0; n < 6; n++) {
        const reader = new PlainReader(`${balancer.url}/events?channel=away&history=10`, { token });
        closing.push(() => reader.close());
        await reader.seen('before');
        assert.equal(reader.tries, 1, 'it was let in at once');
      }
    });
  });

  test(`${kind}: without any node an EventSource is told to come back, and others that it failed`, async () => {
    await withNodes(async ({ nodes, closing }) => {
      const balancer = await Balancer.start(kind, nodes.map(({ port }) => port));
      closing.push(() => balancer.stop());
      for (const node of nodes) await node.kill9();
      const ask = (accept) => fetch(`${balancer.url}/events?channel=a`, { headers: { accept } });
      // At first it meets nodes that it takes for alive, and later it knows of none.
      for (let n = 0; n < 10; n++) {
        const source = await ask('text/event-stream');
        assert.equal(source.status, 200, 'anything else ends it for good');
        assert.match(source.headers.get('content-type'), /^text\/event-stream/);
        assert.match(await source.text(), /^retry: [3-6]\d{3}\n\n$/);
        const other = await ask('*/*');
        assert.ok(other.status >= 502, `${other.status}`);
        assert.doesNotMatch(other.headers.get('content-type'), /^text\/event-stream/);
        assert.doesNotMatch(await other.text(), /^retry:/m);
        await sleep(400);
      }
    });
  });
}

for (const how of ['that is dead', 'that does not answer']) {
  test(`with a Redis ${how} publishing is refused, and all else goes on`, async (context) => {
    await withNodes(async ({ redis, proxies, nodes, token, closing }) => {
      const open = (node, query = '') => {
        const reader = new PlainReader(node.events('away', query), { token });
        closing.push(() => reader.close());
        return reader;
      };
      const goAway = async () => {
        if (how === 'that is dead') return redis.kill9();
        for (const proxy of proxies) await proxy.be(HELD);
      };
      const comeBack = async () => {
        if (how === 'that is dead') return redis.restart();
        for (const proxy of proxies) await proxy.be({});
      };
      const readers = nodes.map((node) => open(node));
      for (const reader of readers) await reader.opened();
      await publishUntilStored(nodes[0].url, token, { channel: 'away', data: 'before' });
      for (const reader of readers) await reader.seen('before');
      await goAway();
      const told = { not_stored: [], unknown: [] };
      const times = [];
      for (const [index, node] of nodes.entries()) {
        for (const data of [`first of ${index}`, `second of ${index}`]) {
          const answer = await publish(node.url, token, { channel: 'away', data, idempotency_key: data });
          assert.equal(answer.status, 503, answer.text);
          assert.ok(answer.kind in told, answer.text);
          assert.ok(answer.ms < 5000, `refused after ${answer.ms} ms`);
          told[answer.kind].push(data);
          times.push(`${answer.kind} after ${answer.ms.toFixed()} ms`);
        }
        // With a connection that is known to be lost nothing is sent.
        assert.ok(told.not_stored.includes(`second of ${index}`), JSON.stringify(told));
        assert.ok((await stats(node, token)).log.trouble, 'why is said');
        assert.equal((await fetch(`${node.url}/readyz`)).status, 200);
        const late = [open(node, '&history=10'), open(node, '&last_event_id=earliest')];
        for (const reader of late) await reader.seen('before');
        readers.push(...late);
      }
      context.diagnostic(`publishes were answered ${times.join(', ')}`);
      await comeBack();
      const back = performance.now();
      const recovered = await Promise.all(nodes.map(async (node, index) => {
        await publishUntilStored(node.url, token, { channel: 'away', data: `after on ${index}` });
        return performance.now() - back;
      }));
      context.diagnostic(`publishing goes on ${recovered.map((ms) => `${ms.toFixed()} ms`).join(', ')} after its return`);
      for (const ms of recovered) assert.ok(ms < 30_000, `publishing went on after ${ms} ms`);
      for (const node of nodes) assert.equal((await stats(node, token)).log.trouble, null);
      // What may have been stored is sent again, and is there once.
      for (const data of told.unknown) await publishUntilStored(nodes[0].url, token, { channel: 'away', data });
      await publishUntilStored(nodes[0].url, token, { channel: 'away', data: 'end' });
      for (const reader of readers) {
        await reader.seen('end');
        reader.sawExactly(readers[0].events);
        assert.equal(reader.opens, 1, 'its stream stayed');
      }
      const stored = ['before', ...told.unknown, ...nodes.map((_, index) => `after on ${index}`), 'end'];
      assert.deepEqual(readers[0].events.map(({ data }) => data).sort(), stored.sort());
    });
  });
}
