// Three nodes as `deploy/` describes them, behind its balancers: a node dies with streams on it, and Redis goes away.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { parse } from 'yaml';
import { Balancer, balancers, deployed } from './harness/balancers.mjs';
import { Redis } from './harness/redis.mjs';
import { Tidings, binary } from './harness/tidings.mjs';
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

/** Redis and its nodes with the settings of `deploy/compose.yaml`, on addresses of this machine. */
async function withNodes(body) {
  const closing = [];
  try {
    const [program, ...args] = compose.services.redis.command;
    assert.equal(program, 'redis-server');
    const redis = await Redis.start(args);
    closing.push(() => redis.stop());
    const nodes = await Promise.all(
      services.map(async ([, service]) => {
        const { TIDINGS_LISTEN, TIDINGS_DATA_DIR, ...env } = environment(service);
        assert.equal(env.TIDINGS_REDIS__URL, 'redis://redis:6379');
        const node = await Tidings.start({ config: 'retry = "50ms"\n', env: { ...env, TIDINGS_REDIS__URL: redis.url } });
        closing.push(() => node.stop());
        return node;
      }),
    );
    const token = await nodes[0].token({ sub: 'ana', subscribe: ['**'], publish: ['**'], admin: true });
    await body({ redis, nodes, token, closing });
  } finally {
    for (const close of closing.reverse()) await close();
  }
}

/** How many streams a node has. */
async function streams(node, token) {
  const answer = await fetch(`${node.url}/stats`, { headers: { authorization: `Bearer ${token}` } });
  return (await answer.json()).connections;
}

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
  return { status: answer.status, ms: performance.now() - began, id: answer.status === 200 ? JSON.parse(text).id : undefined, text };
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

test('without Redis publishing is refused, and all else goes on', async () => {
  await withNodes(async ({ redis, nodes, token, closing }) => {
    const open = (node, query = '') => {
      const reader = new PlainReader(node.events('away', query), { token });
      closing.push(() => reader.close());
      return reader;
    };
    const expected = [];
    const say = async (node, data) => {
      const answer = await publish(node.url, token, { channel: 'away', data });
      assert.equal(answer.status, 200, answer.text);
      expected.push({ id: answer.id, type: 'message', data });
    };
    const readers = nodes.map((node) => open(node));
    for (const reader of readers) await reader.opened();
    await say(nodes[0], 'before');
    for (const reader of readers) await reader.seen('before');
    await redis.kill9();
    for (const node of nodes) {
      const answer = await publish(node.url, token, { channel: 'away', data: 'never' });
      assert.equal(answer.status, 503, answer.text);
      assert.ok(answer.ms < 5000, `refused after ${answer.ms} ms`);
      assert.equal((await fetch(`${node.url}/readyz`)).status, 200);
      const late = open(node, '&history=10');
      readers.push(late);
      await late.seen('before');
    }
    await redis.restart();
    for (const node of nodes) {
      const end = Date.now() + 30_000;
      for (;;) {
        const data = `after ${expected.length}`;
        const answer = await publish(node.url, token, { channel: 'away', data, idempotency_key: data });
        if (answer.status === 200) {
          expected.push({ id: answer.id, type: 'message', data });
          break;
        }
        assert.equal(answer.status, 503, answer.text);
        assert.ok(Date.now() < end, answer.text);
      }
    }
    for (const reader of readers) {
      await reader.seen(expected.at(-1).data);
      reader.sawExactly(expected);
      assert.equal(reader.opens, 1, 'its stream stayed');
    }
  });
});
