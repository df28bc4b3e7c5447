// A client of our own on Node's HTTP: reads as strictly as the server promises to write, resumes by its last id.
import http from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { BlockReader } from '../harness/block.mjs';
import { Reading } from './reading.mjs';

export class PlainReader extends Reading {
  lastId;
  /** How many times it has asked for a stream. */
  tries = 0;
  #request;
  #closed = false;

  /**
   * @param {object} options
   * @param options.check called with every published event; what it throws fails the reading
   * @param {string} [options.lastId] the last event id that it comes with
   */
  constructor(url, { token, check = () => {}, lastId }) {
    super();
    this.lastId = lastId;
    this.running = this.#run(url, token, check).catch((error) => this.fail(error));
  }

  async #run(url, token, check) {
    while (!this.#closed) {
      try {
        for await (const event of this.#stream(url, token)) {
          this.lastId = event.id;
          if (!event.type.startsWith('tidings:')) check(event);
          this.see(event);
        }
      } catch (error) {
        if (!['ECONNREFUSED', 'ECONNRESET', 'EPIPE'].includes(error.code)) throw error;
      }
      await sleep(Math.random() * 40);
    }
  }

  async *#stream(url, token) {
    const headers = { authorization: `Bearer ${token}`, accept: 'text/event-stream' };
    this.tries += 1;
    if (this.lastId) headers['last-event-id'] = this.lastId;
    const response = await new Promise((resolve, reject) => {
      this.#request = http.get(url, { headers, agent: false }, resolve).on('error', reject);
    });
    if (response.statusCode !== 200) throw new Error(`${response.statusCode} for a stream`);
    const blocks = new BlockReader();
    for await (const bytes of response) yield* blocks.read(bytes);
  }

  /** Loses the connection on this side. */
  lose() {
    this.#request?.destroy(Object.assign(new Error('lost'), { code: 'ECONNRESET' }));
  }

  async close() {
    this.#closed = true;
    this.lose();
    await this.running;
  }
}
