// Readers that run in a page of a real browser.
import { setTimeout as sleep } from 'node:timers/promises';
import { Reading } from './reading.mjs';

/** A page of `page/` in a browser, whose sightings are fetched now and then. */
export class ReadingPage {
  #page;
  #readings = new Map();
  #names = 0;
  #closed = false;

  /** @param cookie the token that the browser holds as the hub's cookie */
  static async open(browser, origin, { cookie } = {}) {
    const reading = new ReadingPage();
    reading.#page = await browser.newPage();
    await reading.#page.goto(cookie ? `${origin}/?token=${encodeURIComponent(cookie)}` : origin);
    await reading.#page.waitForFunction('window.ready');
    reading.polling = reading.#poll();
    return reading;
  }

  /** @param kind a key of `kinds` in page/readers.js */
  async read(kind, url, { types, ...options }) {
    const name = `${kind} ${++this.#names}`;
    const reading = new Reading();
    this.#readings.set(name, reading);
    reading.close = async () => {
      if (!this.#readings.delete(name)) return;
      await this.#page.evaluate((name) => window.closeReader(name), name);
    };
    const wanted = { ...options, types: ['tidings:open', 'tidings:gap', ...types] };
    await this.#page.evaluate(([name, kind, url, options]) => window.openReader(name, kind, url, options), [name, kind, url, wanted]);
    return reading;
  }

  async close() {
    this.#closed = true;
    await this.polling;
    await this.#page.close();
  }

  async #poll() {
    while (!this.#closed) {
      try {
        for (const { name, failure, events } of await this.#page.evaluate(() => window.look())) {
          const reading = this.#readings.get(name);
          for (const event of events) reading?.see(event);
          if (failure) reading?.fail(new Error(failure));
        }
      } catch (error) {
        for (const reading of this.#readings.values()) reading.fail(error);
        return;
      }
      await sleep(10);
    }
  }
}
