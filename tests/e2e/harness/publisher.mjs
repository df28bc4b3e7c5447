import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { PATIENCE_MS, Watched } from './watched.mjs';

/** Who hears nothing for so long (heartbeats come each second) goes elsewhere. */
export const SILENCE_MS = 3_000;
/** What a connection that is lost is called. */
export const LOST = ['ECONNREFUSED', 'ECONNRESET', 'EPIPE', 'UND_ERR_SOCKET'];

/** Publishes numbered events, each as often as it takes to be answered, under the same idempotency key. */
export class Publisher extends Watched {
  /** Of the event that is under way, or was last. */
  number = 0;
  /** Each with its number, channel, data and id. */
  acknowledged = [];
  /** The data of the event that is not answered yet. */
  underWay;
  /** How many sends were not answered with 200. */
  again = 0;
  last = 'nothing';
  #paused = false;
  #idle = false;
  #stopped = false;

  constructor(url, token, index, channels) {
    super();
    Object.assign(this, { url, token, index, channels });
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
      await this.publish(this.channels[Math.floor(Math.random() * this.channels.length)]);
      await sleep(Math.random() * 10);
    }
  }

  async publish(channel) {
    const number = ++this.number;
    const data = `${this.index} ${number} ${channel}`;
    const deadline = Date.now() + PATIENCE_MS;
    this.underWay = data;
    let id;
    while (!(id = await this.#send({ channel, data, idempotency_key: data }))) {
      this.again += 1;
      assert.ok(Date.now() < deadline, `${data} is not stored: ${this.last}`);
      await sleep(20);
    }
    const event = { number, channel, data, id };
    this.acknowledged.push(event);
    this.underWay = undefined;
    this.notify();
    return event;
  }

  /** The event's id, if it is stored. */
  async #send(body) {
    try {
      const answer = await fetch(`${this.url}/publish`, {
        method: 'POST',
        headers: { authorization: `Bearer ${this.token}`, 'content-type': 'application/json', connection: 'close' },
        body: JSON.stringify(body),
        signal: AbortSignal.timeout(SILENCE_MS),
      });
      const text = await answer.text();
      this.last = `${answer.status} ${text}`;
      if (answer.status === 200) return JSON.parse(text).id;
      assert.equal(answer.status, 503, this.last);
    } catch (error) {
      if (error.name !== 'TimeoutError' && !LOST.includes(error.cause?.code)) throw error;
      this.last = error.cause?.code ?? error.name;
    }
  }
}
