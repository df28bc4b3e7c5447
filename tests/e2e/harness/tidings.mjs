// The real binary as a child process: started, killed and started again on the same port and data directory.
import assert from 'node:assert/strict';
import { spawn, execFile } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { freePort } from './ports.mjs';
import { PATIENCE_MS } from './watched.mjs';

const root = fileURLToPath(new URL('../../..', import.meta.url));
const target = process.env.CARGO_TARGET_DIR ?? path.join(root, 'target');
export const binary = path.resolve(process.env.TIDINGS_BIN ?? path.join(target, 'release/tidings'));


export class Tidings {
  #child;
  #log = '';
  #tokens = [];

  /** @param {{host?: string, config?: string, args?: string[], env?: object}} options `config`: the text of a configuration file */
  static async start({ host = '127.0.0.1', config = '', args = [], env = {} } = {}) {
    const server = new Tidings();
    server.env = { ...process.env, ...env };
    server.dir = await mkdtemp(path.join(tmpdir(), 'tidings-e2e-'));
    server.dataDir = path.join(server.dir, 'data');
    server.port = await freePort(host);
    server.url = `http://${host}:${server.port}`;
    const file = path.join(server.dir, 'tidings.toml');
    await writeFile(file, config);
    server.args = ['serve', '--listen', `${host}:${server.port}`, '--data-dir', server.dataDir, '--config', file, ...args];
    await server.restart();
    return server;
  }

  /** What the server printed so far. */
  get log() {
    return this.#log;
  }

  /** Starts the process and waits until it can hold streams. */
  async restart() {
    const child = spawn(binary, this.args, { cwd: this.dir, env: this.env, stdio: ['ignore', 'pipe', 'pipe'] });
    this.#child = child;
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => (this.#log += text));
    let failure;
    child.on('error', (error) => (failure = error));
    const deadline = Date.now() + PATIENCE_MS;
    for (;;) {
      if (failure) throw failure;
      if (child.exitCode !== null || child.signalCode) throw new Error(`the server ended at its start:\n${this.#log}`);
      const answer = await fetch(`${this.url}/readyz`).catch(() => undefined);
      await answer?.arrayBuffer();
      if (answer?.status === 200) return;
      if (Date.now() > deadline) throw new Error(`the server was not ready in time:\n${this.#log}`);
      await sleep(10);
    }
  }

  /** `kill -9`: nothing is flushed, nothing is said to anybody. */
  async kill9() {
    const child = this.#child;
    assert.equal(child.exitCode, null, `the server ended by itself:\n${this.#log}`);
    child.kill('SIGKILL');
    await once(child, 'exit');
  }

  /** Stands still until it is continued; its sockets stay open. */
  suspend() {
    this.#child.kill('SIGSTOP');
  }

  resume() {
    this.#child.kill('SIGCONT');
  }

  /** SIGTERM: drains and ends with status 0. No token may ever have been logged. */
  async stop() {
    const child = this.#child;
    try {
      if (child.exitCode === null && !child.signalCode) {
        child.kill('SIGTERM');
        const [status] = await once(child, 'exit', { signal: AbortSignal.timeout(PATIENCE_MS) });
        assert.equal(status, 0, `the server did not end well:\n${this.#log}`);
      } else {
        assert.equal(child.signalCode, 'SIGKILL', `the server ended by itself:\n${this.#log}`);
      }
      for (const token of this.#tokens) assert.ok(!this.#log.includes(token), 'a token was logged');
    } finally {
      child.kill('SIGKILL');
      await rm(this.dir, { recursive: true, force: true });
    }
  }

  /** A token by the command line, signed with the secret that the server made for itself. */
  async token({ sub, subscribe = [], publish = [], admin = false }) {
    const args = ['token', '--data-dir', this.dataDir, '--sub', sub];
    for (const pattern of subscribe) args.push('--subscribe', pattern);
    for (const pattern of publish) args.push('--publish', pattern);
    if (admin) args.push('--admin');
    const { stdout } = await promisify(execFile)(binary, args, { cwd: this.dir, env: this.env });
    const token = stdout.trim();
    assert.match(token, /^[\w-]+\.[\w-]+\.[\w-]+$/);
    this.#tokens.push(token);
    return token;
  }

  /** Publishes one event, or an array of them; answers the ids. */
  async publish(token, body) {
    const answer = await fetch(`${this.url}/publish`, {
      method: 'POST',
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
      body: JSON.stringify(body),
    });
    const text = await answer.text();
    assert.equal(answer.status, 200, text);
    const json = JSON.parse(text);
    return Array.isArray(body) ? json.results.map((result) => result.id) : json.id;
  }

  events(channel, query = '') {
    return `${this.url}/events?channel=${encodeURIComponent(channel)}${query}`;
  }
}
