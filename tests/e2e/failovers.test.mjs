// Three nodes on a Redis with a replica, while a Sentinel makes the one the other: with "wait 1" nothing is lost that was
// answered; with "master" what the replica did not have is lost, and told to whoever has seen it, and to nobody else.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { FaultProxy } from './harness/fault_proxy.mjs';
import { Redis, SYNCED } from './harness/redis.mjs';
import { Scene, isSame, rounds } from './harness/scene.mjs';

const FAILOVERS = rounds('FAILOVERS', 2);
const LOSSES = rounds('LOSSY_FAILOVERS', 2);
/** What a replica says first. */
const REPLICA = 'REPLCONF';
/** So many events are answered in each round before they are lost. */
const LOST = 10;
const BOTH = ['up', 'down'];

test(`${FAILOVERS} failovers by a Sentinel: with "wait 1" nothing is lost at all`, async (context) => {
  const pair = await Pair.start();
  try {
    await Scene.play(context, { url: () => pair.url(), ack: 'wait 1' }, async (scene) => {
      scene.begin();
      for (let round = 0; round < FAILOVERS; round++) {
        await sleep(100 + Math.random() * 300);
        scene.deeds.push('failover');
        await pair.failOver();
        await scene.progress('failover');
      }
      await scene.judge(context, 0);
    });
  } finally {
    await pair.stop();
  }
});

test(`${LOSSES} failovers to a replica that lacks something: with "master" who has seen it is told, and nobody else`, async (context) => {
  const users = ['node-0', 'node-1', 'node-2'];
  const [unanswered, whole, cutOff] = users;
  const pair = await Pair.start(users);
  const options = { url: (index) => pair.url(users[index]), ack: 'master', mayRepeat: () => true };
  try {
    await Scene.play(context, options, async (scene) => {
      const all = ['chaos/*'];
      // One is away each time: what it misses was never there for it, and what it gets is what is left.
      const witness = await scene.subscriber(scene.url, all);
      // One stays on a node that is cut off each time before the replica is.
      const quiet = await scene.subscriber(scene.nodes[users.indexOf(cutOff)].url, all, { silence: Infinity });
      // One is always where everything comes.
      const reader = await scene.subscriber(scene.nodes[users.indexOf(whole)].url, all, { mayRepeat: () => true });
      scene.subscribers.push(reader);
      scene.begin();
      const lengths = () => scene.publishers.map(({ acknowledged }) => acknowledged.length);
      const spans = [];
      let lost = 0;
      for (let round = 0; round < LOSSES; round++) {
        await sleep(100 + Math.random() * 300);
        scene.deeds.push('failover');
        const before = lengths();
        const answered = () => scene.publishers.flatMap(({ acknowledged }, index) => acknowledged.slice(before[index]));
        let maybeLost;
        await witness.leave();
        await pair.loseWhatComes(cutOff, async () => {
          const begun = scene.acknowledged;
          for (const publisher of scene.publishers) await publisher.until(() => scene.acknowledged >= begun + LOST, 'answers that will be lost');
          maybeLost = answered();
          await reader.until(() => maybeLost.every(({ id }) => reader.ids.has(id)), 'what will be lost');
          // And something that is stored and shown, and not answered: it is sent again after the failover.
          await scene.unanswered((on) => pair.hold(on, { ways: ['down'], of: unanswered }));
          // And what is under way when the master dies.
          spans.push({ from: before, to: lengths().map((length) => length + 1) });
        });
        await scene.progress('failover');
        witness.comeBack();
        const newest = scene.publishers[0].acknowledged.at(-1);
        await witness.until(() => witness.seen.has(newest.data), 'what came after the failover');
        const gone = maybeLost.filter(({ id }) => !witness.ids.has(id));
        // What was under way when the replica was cut off may be left.
        assert.ok(gone.length >= LOST - scene.publishers.length, `only ${gone.length} events were lost`);
        lost += gone.length;
      }
      await scene.end([...scene.subscribers, witness, quiet]);
      judge(scene, witness, quiet, spans);
      scene.isOneOrder();
      assert.equal(reader.gaps.length, LOSSES, 'who has seen something of it each time is told each time');
      if (LOSSES > 0) assert.ok(scene.repeated > 0, 'nothing was stored in both histories');
      const gaps = scene.subscribers.reduce((sum, subscriber) => sum + subscriber.gaps.length, 0);
      scene.tell(context, `${lost} acknowledged events lost, ${gaps} gaps said, ${scene.repeated} deliveries repeated behind a gap`);
    });
  } finally {
    await pair.stop();
  }
});

/** @param witness has seen all that is left; `quiet` stood before every fork; `spans` are of what each publisher was answered that may be lost */
function judge({ subscribers, publishers }, witness, quiet, spans) {
  for (const [publisher, { acknowledged }] of publishers.entries()) {
    for (const [index, { data, id }] of acknowledged.entries()) {
      const mayBeLost = spans.some(({ from, to }) => index >= from[publisher] && index < to[publisher]);
      assert.ok(mayBeLost || witness.ids.has(id), `${data} is lost, and no failover took it`);
    }
  }
  assert.deepEqual(witness.gaps, [], 'who was away missed nothing that is left');
  isSame(quiet.order, witness.order, 'who saw nothing of what was lost goes on');
  assert.deepEqual(quiet.gaps, []);
  assert.equal(quiet.opens, 1, 'its stream stayed');
  const channel = new Map([...witness.seen].map(([data, id]) => [id, data.split(' ')[2]]));
  for (const subscriber of subscribers) {
    // All that is left, once, in its order, whatever else was seen.
    isSame(
      subscriber.order.filter((id) => witness.ids.has(id)),
      witness.order.filter((id) => subscriber.wants(channel.get(id))),
      `${subscriber.views} saw something else`,
    );
    // Between two gaps: first what is left, then what is lost.
    const ends = subscriber.gaps.map(({ at }) => at);
    const parts = [0, ...ends].map((from, index) => subscriber.order.slice(from, ends[index]));
    for (const [index, part] of parts.entries()) {
      const lost = part.findIndex((id) => !witness.ids.has(id));
      const after = lost < 0 ? [] : part.slice(lost);
      assert.ok(after.every((id) => !witness.ids.has(id)), `${subscriber.views} went on behind what was lost, and no gap said so`);
      const told = index < ends.length;
      if (lost >= 0) assert.ok(told, `${subscriber.views} was not told that what it saw is lost`);
      // Who reads everything has seen something of what was lost, or stands before it.
      if (told && subscriber.views.includes('chaos/*')) assert.ok(lost >= 0, `${subscriber.views} was told of a gap for nothing: ${JSON.stringify(subscriber.gaps[index])}`);
    }
    for (const { said } of subscriber.gaps) assert.equal(JSON.parse(said).reason, 'epoch');
    assert.ok(subscriber.gaps.length <= LOSSES, `${subscriber.gaps.length} gaps`);
  }
}

/** A Redis and its replica, each behind a proxy by which everybody knows it, and a Sentinel. */
class Pair {
  /** Each with its proxy; the present master first. */
  #members = [];
  #sentinel;

  /** @param {string[]} users whom the servers tell apart by name */
  static async start(users = []) {
    const pair = new Pair();
    const allowed = users.flatMap((user) => ['--user', user, 'on', 'nopass', '~*', '&*', '+@all']);
    try {
      for (const replica of [false, true]) {
        const proxy = await FaultProxy.before();
        const announced = ['--replica-announce-ip', '127.0.0.1', '--replica-announce-port', String(proxy.port)];
        const args = [...SYNCED, '--repl-diskless-sync-delay', '0', ...announced, ...allowed];
        const member = { proxy };
        pair.#members.push(member);
        member.server = await Redis.start(replica ? [...args, ...pair.#replicaOf()] : args);
        proxy.target = member.server.port;
      }
      const [master] = pair.#members;
      await master.server.wait('the replica', ['INFO', 'replication'], (answer) => answer.includes('state=online'));
      pair.#sentinel = await master.server.watchedBySentinel(master.proxy.port);
      return pair;
    } catch (failure) {
      await pair.stop();
      throw failure;
    }
  }

  #replicaOf() {
    return ['--replicaof', '127.0.0.1', String(this.#members[0].proxy.port)];
  }

  url(user) {
    return `redis+sentinel://${user ? `${user}:none@` : ''}127.0.0.1:${this.#sentinel.port}/main`;
  }

  async stop() {
    await this.#sentinel?.stop();
    for (const { proxy, server } of this.#members) {
      await proxy.stop();
      await server?.stop();
    }
  }

  /** As an operator asks for it. */
  async failOver() {
    const [, replica] = this.#members;
    await replica.server.wait('the replica to follow', ['INFO', 'replication'], (answer) => answer.includes('role:slave') && answer.includes('master_link_status:up'));
    await this.#promote();
    await this.#isFollowed();
  }

  /**
   * A failover that loses what comes from now on.
   * @param {string} user whose connections are cut off before
   * @param {() => Promise<void>} come waits until enough has come
   */
  async loseWhatComes(user, come) {
    const [master, replica] = this.#members;
    await replica.server.wait('the replica to follow', ['INFO', 'replication'], (answer) => answer.includes('role:slave') && answer.includes('master_link_status:up'));
    await this.#sentinel.wait('the replica to be known', ['SENTINEL', 'replicas', 'main'], (answer) => answer.includes(String(replica.proxy.port)) && !answer.includes('_down') && !answer.includes('disconnected'));
    await this.hold(true, { ways: BOTH, of: user });
    const offset = (info) => Number(/master_repl_offset:(\d+)/.exec(info)[1]);
    const seen = offset(await master.server.run('INFO', 'replication'));
    await replica.server.wait('what the others have seen', ['INFO', 'replication'], (answer) => offset(answer) >= seen);
    await this.hold(true, { ways: BOTH, of: REPLICA });
    await come();
    await master.server.kill9();
    // What was on its way died with the machine.
    master.proxy.reset();
    await master.proxy.be({});
    await this.#promote();
    await master.server.restart(this.#replicaOf());
    await this.#isFollowed();
  }

  /** From now on something more does not pass to or from the master, or that one no more. */
  async hold(on, what) {
    const [{ proxy }] = this.#members;
    const others = (proxy.weather.holds ?? []).filter(({ of }) => of !== what.of);
    await proxy.be({ holds: on ? [...others, what] : others });
  }

  async #promote() {
    await this.#sentinel.wait('the failover to begin', ['SENTINEL', 'FAILOVER', 'main'], (answer) => answer === 'OK');
    this.#members.reverse();
    const [master] = this.#members;
    await this.#sentinel.wait('the Sentinel to say so', ['SENTINEL', 'get-master-addr-by-name', 'main'], (answer) => answer.split('\n')[1] === String(master.proxy.port));
    await master.server.wait('the promotion', ['INFO', 'replication'], (answer) => answer.includes('role:master'));
  }

  async #isFollowed() {
    const [master] = this.#members;
    await master.server.wait('the other to follow', ['INFO', 'replication'], (answer) => answer.includes('state=online'));
  }
}
