// nginx as people have it: nothing but `proxy_pass`, so HTTP/1.0 and buffering towards the hub.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { freePort } from './ports.mjs';
import { PATIENCE_MS } from './watched.mjs';

export class Nginx {
  #child;

  static async before(port) {
    const nginx = new Nginx();
    nginx.dir = await mkdtemp(path.join(tmpdir(), 'tidings-nginx-'));
    nginx.port = await freePort();
    const file = path.join(nginx.dir, 'nginx.conf');
    const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((kind) => `${kind}_temp_path ${nginx.dir}/${kind};`);
    await writeFile(file, `
      daemon off;
      master_process off;
      pid ${nginx.dir}/pid;
      error_log stderr;
      events {}
      http {
        access_log off;
        ${temporary.join(' ')}
        server {
          listen 127.0.0.1:${nginx.port};
          location / { proxy_pass http://127.0.0.1:${port}; }
        }
      }`);
    nginx.#child = spawn(process.env.NGINX ?? '/usr/sbin/nginx', ['-e', 'stderr', '-c', file], { stdio: ['ignore', 'ignore', 'pipe'] });
    let complaint = '';
    nginx.#child.stderr.setEncoding('utf8').on('data', (text) => (complaint += text));
    nginx.#child.on('error', (error) => (complaint += error));
    const deadline = Date.now() + PATIENCE_MS;
    while (!(await accepts(nginx.port))) {
      if (nginx.#child.exitCode !== null || Date.now() > deadline) throw new Error(`nginx does not run: ${complaint}`);
      await sleep(10);
    }
    return nginx;
  }

  /** The same URL by way of nginx. */
  through(url) {
    const changed = new URL(url);
    changed.port = String(this.port);
    return changed.href;
  }

  async stop() {
    this.#child.kill('SIGKILL');
    await once(this.#child, 'exit');
    await rm(this.dir, { recursive: true, force: true });
  }
}

async function accepts(port) {
  const socket = net.connect(port, '127.0.0.1');
  try {
    await once(socket, 'connect');
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}
