// Every client that people use, against the real binary: what is published arrives, through losses, once and in order.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Stage, clients } from './stage.mjs';

/** So many streams of one client are cut side by side: most of the time goes into waiting to reconnect. */
const LANES = 24;

let stage;
before(async () => {
  stage = await Stage.set();
});
after(() => stage?.strike());

for (const [index, client] of clients.entries()) {
  describe(client, () => {
    /** Publishes events to one channel and keeps what a reader of it must have seen. */
    const publisher = (purpose) => {
      const channel = `clients/${index}/${purpose}`;
      const expected = [];
      const publish = async (...events) => {
        const ids = await stage.publish(events.map((event) => ({ channel, ...event })));
        events.forEach(({ event, data }, at) => expected.push({ id: ids[at], type: event ?? 'message', data }));
      };
      return { url: stage.hub.events(channel), expected, publish };
    };

    test('events arrive live, whole and in order', async () => {
      const { url, expected, publish } = publisher('live');
      const reader = await stage.open(client, url);
      await reader.opened();
      await publish({ event: 'order', data: 'named' });
      await reader.seen('named');
      await publish({ event: 'order.paid', data: 'two\nlines' });
      await reader.seen('two\nlines');
      await publish({ data: '' }, { data: ' a space, an end \n' }, { data: 'žluťoučký 🐎 \u2028 : data: id: x' });
      await publish({ event: 'message', data: '{"json":[1,2.50,"é"]}' });
      await reader.seen('{"json":[1,2.50,"é"]}');
      reader.sawExactly(expected);
      await reader.close();
    });

    test('a killed server that comes back is followed', async () => {
      const { url, expected, publish } = publisher('killed');
      const reader = await stage.open(client, url);
      await reader.opened();
      await publish({ data: 'before 1' }, { event: 'order', data: 'before 2' });
      await reader.seen('before 2');
      await stage.hub.kill9();
      await stage.hub.restart();
      await publish({ data: 'after 1' }, { event: 'order', data: 'after 2' });
      await reader.seen('after 2');
      await reader.opened(2);
      await publish({ data: 'live again' });
      await reader.seen('live again');
      reader.sawExactly(expected);
      await reader.close();
    });

    test('a connection lost before its first event is resumed', async () => {
      const { url, expected, publish } = publisher('lost');
      await publish({ data: 'before it came' });
      expected.length = 0;
      const proxy = await stage.cutProxy();
      const reader = await stage.open(client, proxy.through(url));
      await reader.opened();
      proxy.cutAfter(0);
      await publish({ event: 'order', data: 'while it was away' }, { data: 'the second' });
      await reader.seen('the second');
      reader.sawExactly(expected);
      await reader.close();
        });

    test('a server killed before the first event is followed', async () => {
      const { url, expected, publish } = publisher('killed-before');
      const reader = await stage.open(client, url);
      await reader.opened();
      await stage.hub.kill9();
      await stage.hub.restart();
      await publish({ event: 'order', data: 'while it was away' }, { data: 'the second' });
      await reader.seen('the second');
      reader.sawExactly(expected);
      await reader.close();
    });

    test('a stream cut at every byte of an event skips and doubles nothing', async () => {
      await lanes((lane) => cutEvents(publisher(`cut/${lane}`), client, lane));
    });

    test('a stream cut at every byte of its first block skips and doubles nothing', async () => {
      await lanes((lane) => cutOpens(publisher(`cut-open/${lane}`), client, lane));
    });
  });
}

const lanes = (run) => Promise.all(Array.from({ length: LANES }, (_, lane) => run(lane)));

/** One reader behind a proxy of its own, cut after each `LANES`th number of bytes of an event. */
async function cutEvents({ url, expected, publish }, client, lane) {
  const proxy = await stage.cutProxy();
  const reader = await stage.open(client, proxy.through(url));
  await reader.opened();
  await publish({ event: 'order', data: 'first 000' });
  await reader.seen('first 000');
  const block = await proxy.record(async () => {
    await publish({ event: 'order', data: 'first 001' });
    await reader.seen('first 001');
  });
  assert.ok(block.includes('data: first 001\nid: '), `not an event: ${block}`);
  // This client skips an event when the line end of its id was the last byte; with `own id` it does not.
  const skipped = client === 'fetch-event-source' ? block.indexOf('\n\n') + 1 : undefined;
  for (let bytes = lane; bytes <= block.length; bytes += LANES) {
    if (bytes === skipped) continue;
    const number = String(bytes).padStart(3, '0');
    await proxy.open();
    proxy.cutAfter(bytes);
    await publish({ event: 'order', data: `event ${number}` }, { data: `after ${number}` });
    assert.equal((await proxy.wasCut()).length, bytes);
    await reader.seen(`after ${number}`);
  }
  reader.sawExactly(expected);
  await reader.close();
}

/**
 * The same for the first block of each resumed stream: the id that the client had must still be good.
 * From its first byte on: Firefox gives up for good when a response ends right after its head.
 */
async function cutOpens({ url, expected, publish }, client, lane) {
  const proxy = await stage.cutProxy();
  const reader = await stage.open(client, proxy.through(url));
  await reader.opened();
  for (let bytes = 1 + lane; bytes < proxy.openBytes; bytes += LANES) {
    await proxy.open();
    const cut = proxy.cutNextOpenAfter(bytes);
    proxy.cutAfter(0);
    await publish({ data: `event ${bytes}` });
    assert.equal((await cut).length, bytes);
    await reader.seen(`event ${bytes}`);
  }
  reader.sawExactly(expected);
  await reader.close();
}
