// A real `redis-server` with a directory of its own: killed and started again on the same port.
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { freePort } from './ports.mjs';
import { PATIENCE_MS } from './watched.mjs';

/** What was answered survives a kill. */
export const SYNCED = ['--appendonly', 'yes', '--appendfsync', 'always', '--maxmemory-policy', 'noeviction'];

export class Redis {
  #child;

  /** @param {string[]} args what follows `redis-server` beside port and directory */
  static async start(args = SYNCED) {
    const redis = new Redis();
    redis.port = await freePort();
    redis.url = `redis://127.0.0.1:${redis.port}`;
    redis.dir = await mkdtemp(path.join(tmpdir(), 'tidings-redis-'));
    redis.args = [...args, '--save', '', '--bind', '127.0.0.1', '--port', String(redis.port), '--dir', redis.dir];
    await redis.restart();
    return redis;
  }

  /** A Sentinel that watches this server, by way of this port, as the service `main`. It fails over when it is asked to: what is slow on a busy machine is not dead. */
  async watchedBySentinel(port = this.port) {
    const sentinel = new Redis();
    sentinel.port = await freePort();
    sentinel.dir = await mkdtemp(path.join(tmpdir(), 'tidings-sentinel-'));
    const file = path.join(sentinel.dir, 'sentinel.conf');
    await writeFile(file, `port ${sentinel.port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 ${port} 1
sentinel down-after-milliseconds main 60000\nsentinel failover-timeout main 3000\n`);
    sentinel.args = [file, '--sentinel'];
    await sentinel.restart();
    return sentinel;
  }

  /** Starts it, with more arguments or other ones, and waits until it answers with what it has. */
  async restart(more = []) {
    const child = spawn('redis-server', [...this.args, ...more], { stdio: ['ignore', 'pipe', 'pipe'] });
    this.#child = child;
    let said = '';
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => (said = (said + text).slice(-2000)));
    const deadline = Date.now() + PATIENCE_MS;
    while ((await this.run('PING').catch(() => undefined)) !== 'PONG') {
      if (child.exitCode !== null || Date.now() > deadline) throw new Error(`redis-server does not run: ${said}`);
      await sleep(20);
    }
  }

  /** One command, and its answer as `redis-cli` prints it. */
  async run(...words) {
    const { stdout } = await promisify(execFile)('redis-cli', ['-e', '-p', String(this.port), ...words]);
    return stdout.trim();
  }

  async wait(what, words, isThere) {
    const deadline = Date.now() + PATIENCE_MS;
    for (;;) {
      const answer = await this.run(...words).catch((error) => error.message);
      if (isThere(answer)) return;
      assert.ok(Date.now() < deadline, `waited in vain for ${what}: ${answer}`);
      await sleep(50);
    }
  }

  async kill9() {
    this.#child.kill('SIGKILL');
    await once(this.#child, 'exit');
  }

  async stop() {
    if (this.#child.exitCode === null && !this.#child.signalCode) await this.kill9();
    await rm(this.dir, { recursive: true, force: true });
  }
}
