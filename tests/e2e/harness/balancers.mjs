// The balancers of `deploy/`, with the committed files: only names and ports are put in their place.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { freePort } from './ports.mjs';
import { PATIENCE_MS } from './watched.mjs';

/** A file of `deploy/`, by name. */
export const deployed = (name) => readFile(new URL(`../../../deploy/${name}`, import.meta.url), 'utf8');

const KINDS = {
  nginx: {
    file: 'nginx.conf',
    // What it writes goes into the test's directory, and nothing into a log.
    fit: (text, dir) => `daemon off;\npid ${dir}/pid;\n${text}`
      .replace('access_log /dev/stdout without_query;', () => `access_log off;\n${TEMPORARY.map((kind) => `${kind}_temp_path ${dir}/${kind};`).join('\n')}`),
    command: (file) => [process.env.NGINX ?? '/usr/sbin/nginx', '-e', 'stderr', '-c', file],
  },
  haproxy: {
    file: 'haproxy.cfg',
    fit: (text) => text,
    command: (file) => ['/usr/sbin/haproxy', '-db', '-f', file],
  },
};
const TEMPORARY = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'];
export const balancers = Object.keys(KINDS);

export class Balancer {
  #child;

  static async start(kind, ports) {
    const balancer = new Balancer();
    balancer.dir = await mkdtemp(path.join(tmpdir(), `tidings-${kind}-`));
    balancer.port = await freePort();
    balancer.url = `http://127.0.0.1:${balancer.port}`;
    const { file: name, fit, command } = KINDS[kind];
    const replaced = ports.reduce(
      (text, port, index) => substitute(text, new RegExp(`node-${index + 1}:4600`, 'g'), `127.0.0.1:${port}`),
      substitute(await deployed(name), /(listen|bind)( :| )8080/, (_, word) => `${word} 127.0.0.1:${balancer.port}`),
    );
    const file = path.join(balancer.dir, name);
    await writeFile(file, fit(replaced, balancer.dir));
    const [program, ...args] = command(file);
    balancer.#child = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'] });
    let complaint = '';
    balancer.#child.stderr.setEncoding('utf8').on('data', (text) => (complaint = (complaint + text).slice(-4000)));
    balancer.#child.on('error', (error) => (complaint += error));
    const deadline = Date.now() + PATIENCE_MS;
    while (!(await accepts(balancer.port))) {
      if (balancer.#child.exitCode !== null || Date.now() > deadline) throw new Error(`${kind} does not run: ${complaint}`);
      await sleep(10);
    }
    return balancer;
  }

  async stop() {
    if (this.#child.exitCode === null) {
      // At once, with its workers.
      this.#child.kill('SIGTERM');
      await once(this.#child, 'exit');
    }
    await rm(this.dir, { recursive: true, force: true });
  }
}

function substitute(text, what, by) {
  const changed = text.replace(what, by);
  if (changed === text) throw new Error(`there is no ${what} in the file`);
  return changed;
}

/** A plain TCP balancer: each connection goes to a node by chance, and to another one if that can't be reached. */
export class TcpBalancer {
  #server;
  #sockets = new Set();

  static async before(ports) {
    const balancer = new TcpBalancer();
    balancer.#server = net.createServer((client) => balancer.#pass(client, shuffled(ports))).listen(0, '127.0.0.1');
    await once(balancer.#server, 'listening');
    balancer.port = balancer.#server.address().port;
    balancer.url = `http://127.0.0.1:${balancer.port}`;
    return balancer;
  }

  async stop() {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
    await once(this.#server, 'close');
  }

  #pass(client, [port, ...others]) {
    client.on('error', () => {});
    if (port === undefined) return void client.destroy();
    const node = net.connect(port, '127.0.0.1');
    let connected = false;
    node.on('error', () => {});
    node.on('connect', () => {
      connected = true;
      for (const socket of [client, node]) {
        socket.setNoDelay(true);
        this.#sockets.add(socket);
        socket.on('close', () => this.#sockets.delete(socket));
      }
      client.pipe(node);
      node.pipe(client);
      client.on('close', () => node.destroy());
    });
    node.on('close', () => (connected ? client.destroy() : this.#pass(client, others)));
  }
}

function shuffled(list) {
  return list.map((value) => ({ value, by: Math.random() })).sort((a, b) => a.by - b.by).map(({ value }) => value);
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
