// A TCP proxy that ends a stream after an exact number of bytes.
import { once } from 'node:events';
import net from 'node:net';
import { Watched } from './watched.mjs';

// What stands before it, `:ok` and padding, is for proxies.
const FIRST = Buffer.from('retry: ');
const OPEN = Buffer.from('event: tidings:open\n');
const END = Buffer.from('\n\n');
const CHUNK_END = Buffer.from('\r\n');

/** So many bytes still pass, then the connection ends. */
class Cut {
  passed = [];
  done = false;

  constructor(bytes) {
    this.left = bytes;
  }

  take(bytes) {
    const part = bytes.subarray(0, Math.min(bytes.length, this.left));
    this.left -= part.length;
    this.passed.push(part);
    return part;
  }
}

export class CutProxy {
  #server;
  #changed = new Watched();
  #sockets = new Set();
  /** The connection that carries the stream, once its `open` block went through whole. */
  #stream;
  /** @type {Cut | undefined} for the open stream */
  #cut;
  /** @type {Cut | undefined} for the first block of the stream that comes next */
  #cutOpen;
  /** Bytes from `retry:` to the end of the `open` block, in the stream that came last. */
  openBytes = 0;

  static async to(port) {
    const proxy = new CutProxy();
    proxy.#server = net.createServer((client) => proxy.#accept(client, port)).listen(0, '127.0.0.1');
    await once(proxy.#server, 'listening');
    proxy.port = proxy.#server.address().port;
    return proxy;
  }

  /** The same URL by way of this proxy. */
  through(url) {
    const changed = new URL(url);
    changed.port = String(this.port);
    return changed.href;
  }

  /** Waits until a stream is open, through its first block. */
  async open() {
    await this.#changed.until(() => this.#stream, 'an open stream');
  }

  /** Passes `bytes` more of the open stream's response, then ends its connection. */
  cutAfter(bytes) {
    if (!this.#stream) throw new Error('there is no stream to cut');
    this.#cut = new Cut(bytes);
    if (bytes === 0) this.#end(this.#stream, this.#cut);
  }

  /** Waits for that cut; answers the bytes that went through before it. */
  async wasCut() {
    await this.#changed.until(() => this.#cut.done, 'the cut');
    return Buffer.concat(this.#cut.passed);
  }

  /** Ends the next stream `bytes` after `retry:` began, within its `open` block; waits for that, answers those bytes. */
  async cutNextOpenAfter(bytes) {
    const cut = (this.#cutOpen = new Cut(bytes));
    await this.#changed.until(() => cut.done, 'the cut');
    return Buffer.concat(cut.passed);
  }

  /** What passes on the open stream while `body` runs. */
  async record(body) {
    const record = (this.#cut = new Cut(Infinity));
    await body();
    this.#cut = undefined;
    return Buffer.concat(record.passed);
  }

  async close() {
    for (const socket of this.#sockets) socket.destroy();
    if (!this.#server.listening) return;
    this.#server.close();
    await once(this.#server, 'close');
  }

  #accept(client, port) {
    const upstream = net.connect(port, '127.0.0.1');
    const connection = { client, upstream, head: Buffer.alloc(0), open: false, ended: false };
    for (const [socket, other] of [[client, upstream], [upstream, client]]) {
      socket.setNoDelay(true);
      this.#sockets.add(socket);
      socket.on('error', () => {});
      socket.on('close', () => {
        this.#sockets.delete(socket);
        other.destroySoon();
        if (this.#stream === connection) this.#stream = undefined;
      });
    }
    client.on('data', (bytes) => upstream.write(bytes));
    upstream.on('data', (bytes) => this.#pass(connection, bytes));
  }

  #pass(connection, bytes) {
    if (connection.ended) return;
    const rest = connection.open ? bytes : this.#passHead(connection, bytes);
    if (connection.ended || rest.length === 0) return;
    if (connection !== this.#stream || !this.#cut || this.#cut.done) return void connection.client.write(rest);
    connection.client.write(this.#cut.take(rest));
    if (this.#cut.left === 0) this.#end(connection, this.#cut);
  }

  /** Passes everything up to the end of the `open` block; answers what is left. */
  #passHead(connection, bytes) {
    const before = connection.head.length;
    const head = (connection.head = Buffer.concat([connection.head, bytes]));
    const open = head.indexOf(OPEN);
    if (this.#cutOpen && !this.#cutOpen.done && open >= 0) {
      const body = head.indexOf(FIRST);
      connection.client.write(head.subarray(before, body));
      connection.client.write(this.#cutOpen.take(head.subarray(body)));
      this.#end(connection, this.#cutOpen);
      return Buffer.alloc(0);
    }
    const end = open < 0 ? -1 : head.indexOf(END, open);
    if (end < 0) {
      connection.client.write(bytes);
      return Buffer.alloc(0);
    }
    let until = end + END.length;
    this.openBytes = until - head.indexOf(FIRST);
    // The line end that closes the block's chunk belongs to it.
    if (head.subarray(until, until + CHUNK_END.length).equals(CHUNK_END)) until += CHUNK_END.length;
    connection.client.write(head.subarray(before, until));
    connection.open = true;
    this.#stream = connection;
    this.#changed.notify();
    return head.subarray(until);
  }

  #end(connection, cut) {
    connection.ended = true;
    connection.upstream.destroy();
    connection.client.destroySoon();
    if (this.#stream === connection) this.#stream = undefined;
    cut.done = true;
    this.#changed.notify();
  }
}
