// A TCP proxy that is as bad as a network can be: it cuts in the middle of a word, is a black hole, refuses, and is slow.
import { once } from 'node:events';
import net from 'node:net';

/** So much of what a client says first is kept, to know who it is. */
const FIRST_WORDS = 1024;
/** The power of two that a cut is away at most, in bytes: as often near as far. */
const FAR = 12;

/**
 * What a network does to connections; nothing, where nothing is said.
 * @typedef {object} Weather
 * @property {{ ways: ('up' | 'down')[], of?: string }[]} [holds] where nothing passes, up being towards the server: on
 *   all connections, or on those whose client said this among its first words. It is kept as the sender's kernel would
 *   keep it, and passes when that is over, also if the sender has given up meanwhile
 * @property {number} [delays] each piece passes later, by up to so many milliseconds
 * @property {boolean} [cuts] every connection ends, somewhere in what passes next
 * @property {boolean} [refuses] connections end, and new ones are refused
 */

export class FaultProxy {
  #server;
  #links = new Set();
  /** @type {Weather} */
  weather = {};
  /** How many connections were cut in the middle of something. */
  cuts = 0;

  /** @param {number} [target] the port of the server, which may be said later */
  static async before(target) {
    const proxy = new FaultProxy();
    proxy.target = target;
    await proxy.#listen(0);
    return proxy;
  }

  /** @param {Weather} weather from now on */
  async be(weather) {
    const refused = this.weather.refuses;
    this.weather = weather;
    for (const link of this.#links) link.feel();
    if (weather.refuses && !refused) {
      this.#server.close();
      this.reset();
    }
    if (refused && !weather.refuses) await this.#listen(this.port);
  }

  /** All connections end, and what was under way is lost. */
  reset() {
    for (const link of this.#links) link.reset();
  }

  async stop() {
    this.reset();
    if (!this.#server.listening) return;
    this.#server.close();
    await once(this.#server, 'close');
  }

  async #listen(port) {
    this.#server = net.createServer((client) => {
      const link = new Link(this, client, () => this.#links.delete(link));
      this.#links.add(link);
    });
    this.#server.listen(port, '127.0.0.1');
    await once(this.#server, 'listening');
    this.port = this.#server.address().port;
  }
}

/** A connection through the proxy. */
class Link {
  /** What the client said first. */
  said = '';

  constructor(proxy, client, over) {
    this.proxy = proxy;
    const server = net.connect(proxy.target, '127.0.0.1');
    this.sockets = [client, server];
    this.lanes = [new Lane(this, 'up', client, server), new Lane(this, 'down', server, client)];
    client.on('data', (bytes) => {
      if (this.said.length < FIRST_WORDS) this.said += bytes.toString('latin1');
    });
    for (const socket of this.sockets) {
      socket.setNoDelay(true);
      socket.on('error', () => {});
      socket.on('close', () => this.sockets.every(({ destroyed }) => destroyed) && over());
    }
    for (const lane of this.lanes) lane.open();
    this.feel();
  }

  feel() {
    const cutLane = this.proxy.weather.cuts && this.lanes[Math.floor(Math.random() * 2)];
    for (const lane of this.lanes) {
      lane.left = lane === cutLane ? Math.floor(2 ** (Math.random() * FAR)) : Infinity;
      lane.pass();
    }
  }

  reset() {
    // One that is ending can't be reset: libuv refuses, and Node would keep it for ever.
    for (const socket of this.sockets) socket.writableEnded ? socket.destroy() : socket.resetAndDestroy();
  }

  /** Ends behind what was written last, with an error or, as often, as if it were well. */
  cut() {
    this.proxy.cuts += 1;
    if (Math.random() < 0.5) return this.reset();
    for (const socket of this.sockets) socket.destroy();
  }
}

/** One direction of a connection. */
class Lane {
  /** Pieces in their order, each with the time from which it may pass; without bytes it is the end. */
  #waiting = [];
  #timer;
  /** So many bytes pass before it is cut; 0 when it is. */
  left = Infinity;

  constructor(link, way, from, to) {
    Object.assign(this, { link, way, from, to });
  }

  open() {
    this.from.on('data', (bytes) => this.#add(bytes));
    this.from.on('close', () => this.#add());
  }

  #add(bytes) {
    const { delays = 0 } = this.link.proxy.weather;
    const due = Math.max(performance.now() + Math.random() * delays, this.#waiting.at(-1)?.due ?? 0);
    this.#waiting.push({ bytes, due });
    this.pass();
  }

  /** Passes on what may pass now. */
  pass() {
    clearTimeout(this.#timer);
    const { holds = [], delays } = this.link.proxy.weather;
    if (this.left === 0) return;
    if (holds.some(({ ways, of = '' }) => ways.includes(this.way) && this.link.said.includes(of))) return;
    while (this.#waiting.length > 0) {
      const early = this.#waiting[0].due - performance.now();
      if (delays && early > 0) return void (this.#timer = setTimeout(() => this.pass(), early));
      const { bytes } = this.#waiting.shift();
      if (!bytes) {
        this.to.destroySoon();
      } else if (bytes.length < this.left) {
        this.to.write(bytes);
        this.left -= bytes.length;
      } else {
        this.to.write(bytes.subarray(0, this.left), () => this.link.cut());
        this.left = 0;
        return;
      }
    }
  }
}
