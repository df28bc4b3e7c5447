// The clients from PyPI: small programs in tests/python that print what they see, a line of JSON each.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import readline from 'node:readline';
import { fileURLToPath } from 'node:url';
import { Reading } from './reading.mjs';

const programs = fileURLToPath(new URL('../../python', import.meta.url));
const target = process.env.CARGO_TARGET_DIR ?? path.join(programs, '../../target');
const python = process.env.TIDINGS_PYTHON ?? path.join(target, 'python/bin/python');

class PythonReader extends Reading {
  #child;
  #closed = false;

  constructor(program, url, { token }) {
    super();
    const child = (this.#child = spawn(python, [path.join(programs, program), url, token], { stdio: ['ignore', 'pipe', 'pipe'] }));
    let complaint = '';
    child.stderr.setEncoding('utf8').on('data', (text) => (complaint += text));
    readline.createInterface(child.stdout).on('line', (line) => this.see(JSON.parse(line)));
    child.on('error', (error) => this.fail(error));
    child.on('exit', () => this.#closed || this.fail(new Error(`${program} ended: ${complaint}`)));
  }

  async close() {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#child.exitCode !== null) return;
    this.#child.kill('SIGKILL');
    await once(this.#child, 'exit');
  }
}

export class HttpxSseReader extends PythonReader {
  constructor(url, options) {
    super('read_httpx_sse.py', url, options);
  }
}

export class SseclientReader extends PythonReader {
  constructor(url, options) {
    super('read_sseclient.py', url, options);
  }
}
