// `curl -N`, started again with the last id whenever its stream ends.
import { spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { BlockReader } from '../harness/block.mjs';
import { Reading } from './reading.mjs';

export class CurlReader extends Reading {
  #child;
  #closed = false;

  constructor(url, { token }) {
    super();
    this.running = this.#run(url, token).catch((error) => this.fail(error));
  }

  async #run(url, token) {
    let lastId;
    while (!this.#closed) {
      const args = ['-sN', '-H', `Authorization: Bearer ${token}`, '-H', 'Accept: text/event-stream'];
      if (lastId) args.push('-H', `Last-Event-ID: ${lastId}`);
      const child = (this.#child = spawn('curl', [...args, url], { stdio: ['ignore', 'pipe', 'inherit'] }));
      const blocks = new BlockReader();
      for await (const bytes of child.stdout) {
        for (const event of blocks.read(bytes)) {
          lastId = event.id;
          this.see(event);
        }
      }
      // A server that is down is asked again, not stormed.
      if (child.exitCode === 7) await sleep(20);
    }
  }

  async close() {
    this.#closed = true;
    this.#child.kill('SIGKILL');
    await this.running;
  }
}
