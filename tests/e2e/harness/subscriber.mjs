import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { BlockReader } from './block.mjs';
import { LOST, SILENCE_MS } from './publisher.mjs';
import { Watched } from './watched.mjs';

/** Reads its views from the beginning to the end, on whichever node it meets. */
export class Subscriber extends Watched {
  opens = 0;
  /** The id of each event, by its data: the newest one, of those that came again. */
  seen = new Map();
  /** Ids in the order in which they came. */
  order = [];
  ids = new Set();
  /** How many events came again. */
  repeated = 0;
  /** Each with what was said, how many events came before it, the newest number of each publisher before it, and the first behind it. */
  gaps = [];
  #newest = {};
  /** How many gaps had been told when an event came last, by its data. */
  #gapsBefore = new Map();
  #lastId;
  /** The ids that it came back with. */
  #resumed = [];
  #closed = false;
  #away = false;
  #failure;
  #abort = new AbortController();

  /**
   * @param {object} options
   * @param {(publisher: number, number: number) => boolean} [options.mayRepeat] whether an event may have been stored a
   *   second time, in a log that has lost it; there has to be a gap between the two all the same
   * @param {number} [options.silence] after how many milliseconds without a byte it comes back
   */
  constructor(url, token, views, { mayRepeat = () => false, silence = SILENCE_MS } = {}) {
    super();
    Object.assign(this, { url: `${url}/events?${views.map((view) => `channel=${encodeURIComponent(view)}`).join('&')}`, token, views, mayRepeat, silence });
    this.running = this.#run().catch((error) => {
      this.#failure = error;
      this.notify();
    });
  }

  wants(channel) {
    return this.views.some((view) => view === channel || (view.endsWith('/*') && channel.startsWith(view.slice(0, -1))));
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
  async leave() {
    this.#away = true;
    this.lose();
    await this.until(() => this.left, 'a subscriber to leave');
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
      if (this.#away) {
        this.left = true;
        this.notify();
        await this.until(() => !this.#away, 'a subscriber to come back');
        this.left = false;
        if (this.#closed) return;
      }
      await this.#read();
      await sleep(Math.random() * 60);
    }
  }

  async #read() {
    const abort = (this.#abort = new AbortController());
    const silence = this.silence < Infinity ? setTimeout(() => abort.abort(), this.silence) : undefined;
    try {
      const headers = { authorization: `Bearer ${this.token}`, accept: 'text/event-stream' };
      if (this.#lastId) headers['last-event-id'] = this.#lastId;
      this.#resumed.push(this.#lastId);
      const answer = await fetch(this.url, { headers, signal: abort.signal });
      // A node that starts or ends takes no streams, nor one that can't read as far as the id is.
      if (answer.status === 503) return;
      assert.equal(answer.status, 200);
      const blocks = new BlockReader();
      for await (const bytes of answer.body) {
        silence?.refresh();
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
    const at = this.order.indexOf(this.seen.get(data));
    const text = (id) => `${id} = ${[...this.seen].find(([, seen]) => seen === id)?.[0]}`;
    const events = [...this.order.slice(Math.max(at - 2, 0), at + 3).map(text), '…', ...this.order.slice(-3).map(text)];
    return `now ${id}; ${events.join('; ')}; resumed behind ${this.#resumed.slice(-3).join(', ')}; ${JSON.stringify(this.gaps)}`;
  }

  #take({ id, type, data }) {
    this.#lastId = id;
    if (type === 'tidings:open') this.opens += 1;
    if (type === 'tidings:gap') this.gaps.push({ said: data, at: this.order.length, before: { ...this.#newest }, after: {} });
    if (!type.startsWith('tidings:')) {
      const [publisher, digits, channel] = data.split(' ');
      const number = Number(digits);
      const newest = this.#newest[publisher] ?? 0;
      const repeated = this.#gapsBefore.get(data) < this.gaps.length && this.mayRepeat(Number(publisher), number);
      assert.ok(this.wants(channel), `${this.views} got ${data}`);
      assert.ok(!this.seen.has(data) || repeated, `${data} came twice on ${this.views}: ${this.#story(data, id)}`);
      assert.ok(!this.ids.has(id), `${data} came with an id seen before`);
      assert.ok(number > newest || (repeated && number === newest), `${data} after number ${newest}: ${this.#story(data, id)}`);
      if (this.seen.has(data)) this.repeated += 1;
      this.#newest[publisher] = number;
      for (const gap of this.gaps) gap.after[publisher] ??= number;
      this.#gapsBefore.set(data, this.gaps.length);
      this.ids.add(id);
      this.seen.set(data, id);
      this.order.push(id);
    }
    this.notify();
  }
}
