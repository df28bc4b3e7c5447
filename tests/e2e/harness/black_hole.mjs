// A network of its own, from which nothing comes any more once it is cut off: no FIN, no RST, no error.
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { promisify } from 'node:util';

// Debian has `ip` and `ss` where only root's PATH looks.
const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` };
/** Nobody's: a frame sent there is dropped by whoever gets it. */
const NOBODY = '02:00:00:00:00:00';
const INNER = 'inner';

async function run(program, ...args) {
  const { stdout } = await promisify(execFile)(program, args, { env });
  return stdout;
}

export class BlackHole {
  #holder;
  #link;
  #laid = false;

  /** Two ends of a cable: `host` on this machine, `inside` in a network namespace. Takes root. */
  static async dig() {
    const hole = new BlackHole();
    // The namespace lives as long as its processes, and this one until its input ends: with the test, however that
    // ends. A named one (`ip netns add`) would outlive a test that was killed.
    const holder = spawn('unshare', ['--net', 'sh', '-c', 'echo && exec cat'], { env, stdio: ['pipe', 'pipe', 'pipe'] });
    hole.#holder = holder;
    let complaint = '';
    holder.stderr.setEncoding('utf8').on('data', (text) => (complaint += text));
    holder.on('error', (error) => (complaint += error));
    await Promise.race([once(holder.stdout, 'data'), once(holder, 'close')]);
    if (complaint) throw new Error(`no network namespace can be made: ${complaint}`);
    try {
      await hole.#connect();
    } catch (error) {
      await hole.close();
      throw error;
    }
    return hole;
  }

  async #connect() {
    const { pid } = this.#holder;
    this.#link = `tidings${pid}`;
    // 16,384 networks of two addresses, so that runs at the same time have one each.
    const network = (pid % 0x4000) * 4;
    const address = (last) => `10.200.${network >> 8}.${(network & 0xff) + last}`;
    this.host = address(1);
    this.inside = address(2);
    await run('ip', 'link', 'add', this.#link, 'type', 'veth', 'peer', 'name', INNER, 'netns', String(pid));
    this.#laid = true;
    await run('ip', 'address', 'add', `${this.host}/30`, 'dev', this.#link);
    await run('ip', 'link', 'set', this.#link, 'up');
    await run(...this.within('ip', 'address', 'add', `${this.inside}/30`, 'dev', INNER));
    await run(...this.within('ip', 'link', 'set', INNER, 'up'));
  }

  /** The same command in the namespace. */
  within(...command) {
    return ['nsenter', '--target', String(this.#holder.pid), '--net', ...command];
  }

  /** From now on nothing passes in either direction. Both ends have their link up, and send without an error. */
  async cutOff() {
    const lose = (address, device) => ['ip', 'neighbour', 'replace', address, 'lladdr', NOBODY, 'dev', device, 'nud', 'permanent'];
    await run(...lose(this.inside, this.#link));
    await run(...this.within(...lose(this.host, INNER)));
  }

  /** What this machine's kernel still keeps of connections with the inside, a line each. */
  async sockets() {
    const lines = await run('ss', '--no-header', '--numeric', '--tcp', '--all', 'dst', this.inside);
    return lines.split('\n').filter(Boolean);
  }

  /** What was open inside keeps the namespace, and with it the cable, until its kernel gives up: so both are taken away. */
  async close() {
    try {
      if (this.#laid) await run('ip', 'link', 'delete', this.#link);
    } finally {
      this.#holder.kill('SIGKILL');
      if (this.#holder.exitCode === null && !this.#holder.signalCode) await once(this.#holder, 'exit');
    }
  }
}
