// What most of these tests stand on: one hub, one page server, and every client by name.
import { CutProxy } from './harness/cut_proxy.mjs';
import { PageServer } from './harness/page_server.mjs';
import { startChromium, startFirefox } from './harness/browsers.mjs';
import { Tidings } from './harness/tidings.mjs';
import { ReadingPage } from './readers/browser.mjs';
import { CurlReader } from './readers/curl.mjs';
import { NpmEventSourceReader } from './readers/eventsource.mjs';
import { HttpxSseReader, SseclientReader } from './readers/python.mjs';

export const TYPES = ['message', 'order', 'order.paid'];

export class Stage {
  #open = [];

  static async set() {
    const stage = new Stage();
    try {
      await stage.#set();
      return stage;
    } catch (error) {
      await stage.strike();
      throw error;
    }
  }

  async #set() {
    this.pages = await PageServer.start();
    // Clients come back at once, so that many losses take little time.
    this.hub = await Tidings.start({ config: `retry = "50ms"\nheartbeat = "10m"\n[limits]\nper_user = 1000\n[cors]\norigins = ["${this.pages.origin}"]\n` });
    this.token = await this.hub.token({ sub: 'ana', subscribe: ['**'], publish: ['**'], admin: true });
    this.chromium = await startChromium();
    this.chromiumPage = await ReadingPage.open(this.chromium, this.pages.origin, { cookie: this.token });
    this.firefox = await startFirefox();
    this.firefoxPage = await ReadingPage.open(this.firefox, this.pages.origin);
  }

  /** Ends everything, also what a failed test left behind; then says the first thing that did not end well. */
  async strike() {
    const ends = [
      ...this.#open.map((opened) => () => opened.close()),
      () => this.chromiumPage?.close(),
      () => this.firefoxPage?.close(),
      () => this.chromium?.stop(),
      () => this.firefox?.stop(),
      () => this.hub?.stop(),
      () => this.pages?.stop(),
    ];
    const failures = [];
    for (const end of ends) {
      try {
        await end();
      } catch (failure) {
        failures.push(failure);
      }
    }
    if (failures.length > 0) throw failures[0];
  }

  publish(body) {
    return this.hub.publish(this.token, body);
  }

  /** Opens a client of this kind on a URL of the hub. */
  async open(client, url) {
    const reader = await CLIENTS[client](this, url, { token: this.token, types: TYPES });
    this.#open.push(reader);
    return reader;
  }

  /** A cutting proxy before the hub. */
  async cutProxy() {
    const proxy = await CutProxy.to(this.hub.port);
    this.#open.push(proxy);
    return proxy;
  }
}

/** How each client says who it is and reads: by header, by cookie (with CORS) or in the query. */
const CLIENTS = {
  'curl -N': (_, url, options) => new CurlReader(url, options),
  'npm eventsource': (_, url, options) => new NpmEventSourceReader(url, options),
  'PyPI httpx-sse': (_, url, options) => new HttpxSseReader(url, options),
  'PyPI sseclient-py': (_, url, options) => new SseclientReader(url, options),
  'Chromium EventSource': (stage, url, { types }) => stage.chromiumPage.read('EventSource', url, { types, withCredentials: true }),
  'Firefox EventSource': (stage, url, { types, token }) => stage.firefoxPage.read('EventSource', `${url}&token=${token}`, { types }),
  'fetch-event-source': (stage, url, options) => stage.chromiumPage.read('fetch-event-source', url, options),
  'fetch-event-source, own id': (stage, url, options) => stage.chromiumPage.read('fetch-event-source, own id', url, options),
  'event-source-polyfill': (stage, url, options) => stage.chromiumPage.read('event-source-polyfill', `${url}&padding=2048`, options),
};
export const clients = Object.keys(CLIENTS);
