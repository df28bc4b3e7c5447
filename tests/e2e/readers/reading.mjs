import assert from 'node:assert/strict';
import { Watched } from '../harness/watched.mjs';

/** What one client saw so far: published events apart from the hub's own. */
export class Reading extends Watched {
  /** @type {{id: string, type: string, data: string}[]} */
  events = [];
  /** @type {{id: string, type: string, data: string}[]} */
  control = [];
  /** @type {Error | undefined} */
  #failure;

  see(event) {
    (event.type.startsWith('tidings:') ? this.control : this.events).push(event);
    this.notify();
  }

  fail(error) {
    this.#failure ??= error;
    this.notify();
  }

  get opens() {
    return this.control.filter((event) => event.type === 'tidings:open').length;
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

  /** Exactly these published events, in this order, and no gap was said. */
  sawExactly(expected) {
    assert.deepEqual(this.events, expected);
    assert.deepEqual(this.control.filter((event) => event.type === 'tidings:gap'), []);
  }

  async #wait(condition, what) {
    await this.until(() => {
      if (this.#failure) throw this.#failure;
      return condition();
    }, what);
  }
}
