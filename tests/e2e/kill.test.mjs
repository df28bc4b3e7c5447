// `kill -9` under load, again and again: no acknowledged event is lost, doubled or out of order.
import assert from 'node:assert/strict';
import { EventEmitter, once } from 'node:events';
import http from 'node:http';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Tidings } from './harness/tidings.mjs';
import { Watched } from './harness/watched.mjs';
import { PlainReader } from './readers/plain.mjs';

const CYCLES = Number(process.env.TIDINGS_KILL_CYCLES ?? 20);
const CHANNELS = ['kill/a', 'kill/b', 'kill/c/d', 'kill/c/e'];
const PUBLISHERS = 4;

test(`${CYCLES} cycles of kill -9 under load`, async (context) => {
  const hub = await Tidings.start();
  try {
    await run(hub, context);
  } finally {
    await hub.stop();
  }
});

async function run(hub, context) {
  const token = await hub.token({ sub: 'loop', subscribe: ['**'], publish: ['**'] });
  const subscribers = [['kill/**'], ['kill/**'], ['kill/a'], ['kill/b', 'kill/c/d'], ['kill/c/*'], CHANNELS].map(
    (views) => new Subscriber(hub, token, views),
  );
  const publishers = Array.from({ length: PUBLISHERS }, (_, index) => new Publisher(hub, token, index));
  try {
    // They are there before the first event, so all of them must see the same.
    for (const subscriber of subscribers) await subscriber.reader.opened();
    await cycles(hub, token, subscribers, publishers);
    await settle(subscribers, publishers, context);
  } finally {
    for (const publisher of publishers) await publisher.stop();
    for (const subscriber of subscribers) await subscriber.reader.close();
  }
}

async function cycles(hub, token, subscribers, publishers) {
  for (let cycle = 0; cycle < CYCLES; cycle++) {
    const quiet = new Quiet(hub, token, `quiet/${cycle}`);
    try {
      await quiet.reader.opened();
      for (const publisher of publishers) publisher.resume();
      await sleep(50 + Math.random() * 250);
      subscribers[cycle % subscribers.length].reader.lose();
      await sleep(Math.random() * 100);
      await hub.kill9();
      // In every second cycle nothing is published until everybody is back and has all there is.
      const still = cycle % 2 === 1;
      if (still) for (const publisher of publishers) await publisher.pause();
      const opens = subscribers.map((subscriber) => subscriber.reader.opens);
      await hub.restart();
      if (still) {
        for (const [index, subscriber] of subscribers.entries()) {
          await subscriber.reader.opened(opens[index] + 1);
          await subscriber.has(publishers);
        }
      }
      await quiet.isResumed();
    } finally {
      await quiet.reader.close();
    }
  }
}

async function settle(subscribers, publishers, context) {
  for (const publisher of publishers) await publisher.pause();
  // A last event of each, after which nothing can come late.
  for (const publisher of publishers) for (const channel of CHANNELS) assert.ok(await publisher.publish(channel, 1));
  for (const subscriber of subscribers) await subscriber.has(publishers);
  const [whole] = subscribers;
  for (const subscriber of subscribers) {
    const expected = whole.reader.events.filter((event) => subscriber.wants(event));
    assert.deepEqual(subscriber.reader.events, expected, `${subscriber.views} saw something else than ${whole.views}`);
  }
  const acknowledged = publishers.reduce((sum, publisher) => sum + publisher.acknowledged.length, 0);
  const tried = publishers.reduce((sum, publisher) => sum + publisher.number, 0);
  assert.ok(acknowledged > CYCLES * PUBLISHERS, `only ${acknowledged} events were acknowledged: there was no load`);
  assert.ok(tried > acknowledged, 'no kill ever met a publish');
  context.diagnostic(`${tried} events published, ${acknowledged} acknowledged, ${whole.reader.events.length} delivered`);
}

const text = ({ channel, publisher, number }) => `${channel} ${publisher} ${number}`;
const fields = (data) => {
  const [channel, publisher, number] = data.split(' ');
  return { channel, publisher, number: Number(number) };
};

/** Publishes numbered events one after another over one connection; never the same number twice. */
class Publisher extends Watched {
  number = 0;
  /** What was answered 200. */
  acknowledged = [];
  #agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  #idle = true;
  #stopped = false;
  #paused = true;
  #go = new EventEmitter();

  constructor(hub, token, index) {
    super();
    Object.assign(this, { hub, token, index });
    this.running = this.#run();
  }

  resume() {
    this.#paused = false;
    this.#go.emit('go');
  }

  /** Waits for what is under way. */
  async pause() {
    this.#paused = true;
    await this.until(() => this.#idle, 'a publisher to pause');
  }

  async stop() {
    this.#stopped = true;
    this.resume();
    await this.running;
    this.#agent.destroy();
  }

  /** One event, or several stored together or not at all. A lost connection is no answer, any other status a failure. */
  async publish(channel, count) {
    const numbers = Array.from({ length: count }, () => ++this.number);
    const events = numbers.map((number) => ({ channel, data: text({ channel, publisher: this.index, number }) }));
    const answer = await this.#post(JSON.stringify(count === 1 ? events[0] : events));
    if (!answer) return false;
    assert.equal(answer.status, 200, answer.body);
    this.acknowledged.push(...events);
    return true;
  }

  async #run() {
    while (!this.#stopped) {
      if (this.#paused) {
        this.#idle = true;
        this.notify();
        await once(this.#go, 'go');
        this.#idle = false;
        continue;
      }
      const channel = CHANNELS[Math.floor(Math.random() * CHANNELS.length)];
      const count = Math.random() < 0.2 ? 2 + Math.floor(Math.random() * 8) : 1;
      if (!(await this.publish(channel, count))) await sleep(5);
    }
  }

  #post(body) {
    return new Promise((resolve, reject) => {
      const headers = { authorization: `Bearer ${this.token}`, 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) };
      const lost = (error) => (['ECONNREFUSED', 'ECONNRESET', 'EPIPE'].includes(error.code) ? resolve(undefined) : reject(error));
      http
        .request(`${this.hub.url}/publish`, { method: 'POST', agent: this.#agent, headers }, (response) => {
          let text = '';
          response.setEncoding('utf8').on('data', (part) => (text += part));
          response.on('error', lost).on('end', () => resolve({ status: response.statusCode, body: text }));
        })
        .on('error', lost)
        .end(body);
    });
  }
}

/** Reads its views from the beginning to the end, through all losses. */
class Subscriber {
  #newest = Array(PUBLISHERS).fill(0);
  #ids = new Set();
  #seen = new Set();
  /** How many of each publisher's acknowledged events were looked for and found. */
  #found = Array(PUBLISHERS).fill(0);

  constructor(hub, token, views) {
    this.views = views;
    const query = views.map((view) => `channel=${encodeURIComponent(view)}`).join('&');
    this.reader = new PlainReader(`${hub.url}/events?${query}`, { token, check: (event) => this.#check(event) });
  }

  wants({ data }) {
    const { channel } = fields(data);
    return this.views.some((view) => view === channel || (view.endsWith('*') && channel.startsWith(view.replace(/\*+$/, ''))));
  }

  #check(event) {
    assert.ok(this.wants(event), `${this.views} got ${event.data}`);
    assert.ok(!this.#ids.has(event.id), `${event.data} came with an id seen before`);
    this.#ids.add(event.id);
    this.#seen.add(event.data);
    const { publisher, number } = fields(event.data);
    assert.ok(number > this.#newest[publisher], `${event.data} after number ${this.#newest[publisher]}`);
    this.#newest[publisher] = number;
  }

  /** Waits until everything that was acknowledged and is in its views was seen, and no gap was said. */
  async has(publishers) {
    const missing = () => {
      for (const { index, acknowledged } of publishers) {
        let next = this.#found[index];
        while (next < acknowledged.length && (!this.wants(acknowledged[next]) || this.#seen.has(acknowledged[next].data))) next += 1;
        this.#found[index] = next;
        if (next < acknowledged.length) return acknowledged[next].data;
      }
      return undefined;
    };
    await this.reader.until(
      () => {
        this.reader.unharmed();
        return missing() === undefined;
      },
      () => `the acknowledged event '${missing()}' on ${this.views}`,
    );
  }
}

/** Got nothing but its cursor before the server was killed. */
class Quiet {
  constructor(hub, token, channel) {
    Object.assign(this, { hub, token, channel });
    this.reader = new PlainReader(hub.events(channel), { token });
  }

  async isResumed() {
    const expected = [];
    for (const data of ['first', 'second']) {
      expected.push({ id: await this.hub.publish(this.token, { channel: this.channel, data }), type: 'message', data });
      await this.reader.seen(data);
    }
    this.reader.sawExactly(expected);
  }
}
