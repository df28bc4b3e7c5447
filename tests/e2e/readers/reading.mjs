import assert from 'node:assert/strict';
import { Watched } from '../harness/watched.mjs';

/** What one client saw so far: published events apart from the hub's own. */
export class Reading extends Watched {
  /** @type {{id: string, type: string, data: string}[]} */
  events = [];
  /** @type {Error | undefined} */
  #failure;
  #gap;
  /** How many times it has been on a stream. */
  opens = 0;

  see(event) {
    if (event.type === 'tidings:gap') this.#gap ??= event;
    if (event.type === 'tidings:open') this.opens += 1;
    if (!event.type.startsWith('tidings:')) this.events.push(event);
    this.notify();
  }

  fail(error) {
    this.#failure ??= error;
    this.notify();
  }

  /** Waits until the client has been on a stream `times` times. */
  async opened(times = 1) {
    await this.#wait(() => this.opens >= times, `open number ${times}`);
  }

  /** Waits until the event with this data was seen. */
  async seen(data) {
    let from = 0;
    await this.#wait(() => {
      for (; from < this.events.length; from++) if (this.events[from].data === data) return true;
      return false;
    }, () => `${data} after ${JSON.stringify(this.events.slice(-5))}`);
  }

  /** The client goes on reading, and no gap was said. */
  unharmed() {
    if (this.#failure) throw this.#failure;
    assert.equal(this.#gap, undefined);
  }

  /** Exactly these published events, in this order, and no gap was said. */
  sawExactly(expected) {
    this.unharmed();
    assert.deepEqual(this.events, expected);
  }

  async #wait(condition, what) {
    await this.until(() => {
      this.unharmed();
      return condition();
    }, what);
  }
}
