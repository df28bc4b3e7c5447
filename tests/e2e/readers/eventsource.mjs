// The npm package `eventsource`.
import { EventSource } from 'eventsource';
import { Reading } from './reading.mjs';

export class NpmEventSourceReader extends Reading {
  #source;

  constructor(url, { token, types }) {
    super();
    this.#source = new EventSource(url, {
      fetch: (input, init) => fetch(input, { ...init, headers: { ...init.headers, authorization: `Bearer ${token}` } }),
    });
    for (const type of ['tidings:open', 'tidings:gap', ...types]) {
      this.#source.addEventListener(type, (event) => this.see({ id: event.lastEventId, type: event.type, data: event.data }));
    }
    this.#source.addEventListener('error', (event) => {
      if (this.#source.readyState === EventSource.CLOSED) this.fail(new Error(`given up: ${event.code} ${event.message}`));
    });
  }

  async close() {
    this.#source.close();
  }
}
