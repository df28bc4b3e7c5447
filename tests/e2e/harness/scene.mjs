// Three nodes of one hub on Redis, with publishers that repeat and subscribers that move between the nodes.
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { TcpBalancer } from './balancers.mjs';
import { Publisher } from './publisher.mjs';
import { Subscriber } from './subscriber.mjs';
import { Tidings } from './tidings.mjs';
import { PATIENCE_MS } from './watched.mjs';

const SECRET = 'a secret that all of these nodes share';
const CHANNELS = ['chaos/a', 'chaos/b', 'chaos/c'];
const VIEWS = [['chaos/*'], ['chaos/*'], ['chaos/*'], ['chaos/a'], ['chaos/b', 'chaos/c'], CHANNELS];
const PUBLISHERS = 4;
const NODES = 3;
/** Longer than anybody waits for an answer to a publish. */
const GIVEN_UP_MS = 4_000;

/** A number of rounds, which the environment may raise. */
export const rounds = (name, usual) => Number(process.env[`TIDINGS_CHAOS_${name}`] ?? usual);

export class Scene {
  nodes = [];
  subscribers = [];
  publishers = [];
  /** What was done, for who wants to know why it failed. */
  deeds = [];
  #closing = [];

  /**
   * Sets it, does to it what is to be done, and strikes it. Nothing is published before it begins.
   * @param {object} options
   * @param {(index: number) => string} options.url where a node has Redis
   * @param {string} options.ack
   * @param {(publisher: number, number: number) => boolean} [options.mayRepeat] see `Subscriber`
   */
  static async play(context, { url, ack, mayRepeat }, body) {
    const scene = new Scene();
    try {
      await scene.#set(url, ack, mayRepeat);
      await body(scene);
    } catch (failure) {
      context.diagnostic(`it failed after ${scene.deeds.join(', ')}`);
      throw failure;
    } finally {
      for (const close of scene.#closing.reverse()) await close();
    }
  }

  async #set(url, ack, mayRepeat) {
    for (let index = 0; index < NODES; index++) {
      const config = `log = "redis"\nretry = "50ms"\nheartbeat = "1s"\ndrain = "1s"\n[redis]\nurl = "${url(index)}"\nack = "${ack}"\n[limits]\nper_user = 1000\n`;
      const node = await Tidings.start({ config, env: { TIDINGS_JWT_SECRET: SECRET } });
      this.nodes.push(node);
      this.#closing.push(() => node.stop());
    }
    const balancer = await TcpBalancer.before(this.nodes.map(({ port }) => port));
    this.#closing.push(() => balancer.stop());
    this.url = balancer.url;
    this.token = await this.nodes[0].token({ sub: 'chaos', subscribe: ['**'], publish: ['**'], admin: true });
    for (const views of VIEWS) this.subscribers.push(await this.subscriber(this.url, views, { mayRepeat }));
  }

  /** From now on publishers publish, and subscribers move between the nodes. */
  begin() {
    for (let index = 0; index < PUBLISHERS; index++) {
      const publisher = new Publisher(this.url, this.token, index, CHANNELS);
      this.publishers.push(publisher);
      this.#closing.push(() => publisher.stop());
    }
    const moving = setInterval(() => this.subscribers[Math.floor(Math.random() * this.subscribers.length)].lose(), 150);
    this.#closing.push(() => clearInterval(moving));
  }

  /** One more subscriber, once its stream is open. */
  async subscriber(url, views, options) {
    const subscriber = new Subscriber(url, this.token, views, options);
    this.#closing.push(() => subscriber.close());
    await subscriber.until(() => subscriber.opens > 0, 'a stream');
    return subscriber;
  }

  /** Publishing goes on: each publisher is answered again. */
  async progress(deed) {
    const before = this.publishers.map(({ acknowledged }) => acknowledged.length);
    for (const [index, publisher] of this.publishers.entries()) {
      await publisher.until(() => publisher.acknowledged.length > before[index] + 1, () => `a publish after a ${deed}; last ${publisher.last}`);
    }
  }

  /**
   * Waits until somebody has seen an event that is not answered, nor a moment later.
   * @param {(on: boolean) => Promise<void>} hold keeps answers from a node, or no more. It sends one group without an answer, and then waits for one
   */
  async unanswered(hold) {
    const deadline = Date.now() + PATIENCE_MS;
    const waiting = () => this.publishers.map(({ underWay }) => underWay).filter((data) => this.subscribers.some(({ seen }) => seen.has(data)));
    for (;;) {
      await hold(true);
      for (const soon = Date.now() + GIVEN_UP_MS; Date.now() < soon; ) {
        const before = waiting();
        await sleep(100);
        if (waiting().some((data) => before.includes(data))) return;
      }
      // Nobody was there to see it.
      await hold(false);
      await this.progress('new try');
      assert.ok(Date.now() < deadline, 'all is answered');
    }
  }

  /** How many deliveries were of events that had come before. */
  get repeated() {
    return this.subscribers.reduce((sum, { repeated }) => sum + repeated, 0);
  }

  /** How many events were answered with 200. */
  get acknowledged() {
    return this.publishers.reduce((sum, { acknowledged }) => sum + acknowledged.length, 0);
  }

  /** No publisher goes on, and everybody has seen the last event, behind which nothing can come. */
  async end(subscribers) {
    for (const publisher of this.publishers) await publisher.stop();
    const ends = [];
    for (const publisher of this.publishers) for (const channel of CHANNELS) ends.push(await publisher.publish(channel));
    for (const subscriber of subscribers) {
      const wanted = ends.filter(({ channel }) => subscriber.wants(channel));
      await subscriber.until(
        () => wanted.every(({ data }) => subscriber.seen.has(data)),
        () => `the last events on ${subscriber.views}; nodes said ${this.nodes.map(({ log }) => log.slice(-500)).join('\n')}`,
      );
    }
  }

  /**
   * Ends it, and judges what everybody has seen. What is doubled or out of order, a subscriber has found by itself.
   * @param {number} losses how many times a log was lost: so often somebody may be told of a gap, behind which acknowledged events may be missing
   */
  async judge(context, losses) {
    const { publishers, subscribers } = this;
    await this.end(subscribers);
    let gaps = 0;
    let lost = 0;
    for (const subscriber of subscribers) {
      assert.ok(subscriber.gaps.length <= losses, `${subscriber.gaps.length} gaps after ${losses} losses: ${JSON.stringify(subscriber.gaps)}`);
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
    this.isOneOrder();
    if (losses > 0) assert.ok(lost > 0, 'nobody lost anything');
    this.tell(context, `${gaps} gaps said for ${lost} deliveries lost, ${this.repeated} repeated behind a gap`);
  }

  /** One order for all: what two have in common, they have in the same order. */
  isOneOrder() {
    const [whole, ...others] = this.subscribers;
    for (const other of others) {
      const common = (one, two) => one.order.filter((id) => two.ids.has(id));
      isSame(common(other, whole), common(whole, other), `${other.views} saw another order`);
    }
  }

  tell(context, more) {
    const again = this.publishers.reduce((sum, publisher) => sum + publisher.again, 0);
    const opens = this.subscribers.reduce((sum, subscriber) => sum + subscriber.opens, 0);
    assert.ok(again > 0, 'no publish ever met any of this');
    context.diagnostic(`${this.acknowledged} events acknowledged, ${again} sends repeated, ${opens} streams opened, ${more}`);
  }
}

/** As `deepEqual` of lists, which would compare long ones for minutes to say all of their differences. */
export function isSame(actual, expected, message) {
  const at = expected.findIndex((value, index) => value !== actual[index]);
  const from = at < 0 ? expected.length : at;
  if (at >= 0 || actual.length > expected.length) {
    assert.fail(`${message}: from number ${from} on ${actual.slice(from, from + 3)}… instead of ${expected.slice(from, from + 3)}…; ${actual.length} in all instead of ${expected.length}`);
  }
}
