// Through nginx with nothing set but `proxy_pass`: HTTP/1.0 and buffering towards the hub, a clean end for every loss.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Nginx } from './harness/nginx.mjs';
import { Stage, clients } from './stage.mjs';

let stage;
let cutter;
let nginx;
before(async () => {
  stage = await Stage.set();
  cutter = await stage.cutProxy();
  nginx = await Nginx.before(cutter.port);
});
after(async () => {
  await nginx?.stop();
  await stage?.strike();
});

for (const [index, client] of clients.entries()) {
  test(`${client}: events arrive live`, async () => {
    const channel = `nginx/${index}`;
    const reader = await stage.open(client, nginx.through(stage.hub.events(channel)));
    await reader.opened();
    const expected = [];
    for (const data of ['one', 'two', 'three']) {
      expected.push({ id: await stage.publish({ channel, event: 'order', data }), type: 'order', data });
      await reader.seen(data);
    }
    reader.sawExactly(expected);
    await reader.close();
  });
}

// To these a stream that was cut looks like one that ended; who makes an event of an unfinished block
// (sseclient-py) or of an id without its event (fetch-event-source) can't be helped by any server.
for (const [index, client] of ['curl -N', 'npm eventsource', 'Chromium EventSource', 'Firefox EventSource'].entries()) {
  test(`${client}: cut at every byte behind nginx, nothing is skipped or doubled`, async () => {
    const channel = `nginx/cut/${index}`;
    const reader = await stage.open(client, nginx.through(stage.hub.events(channel)));
    await reader.opened();
    const expected = [];
    const publish = async (...texts) => {
      const ids = await stage.publish(texts.map((data) => ({ channel, data })));
      texts.forEach((data, at) => expected.push({ id: ids[at], type: 'message', data }));
    };
    const block = await cutter.record(async () => {
      await publish('event 000');
      await reader.seen('event 000');
    });
    assert.match(block.toString(), /^data: event 000\nid: [^\n]+\n\n$/, 'one block, without chunks');
    for (let bytes = 1; bytes <= block.length; bytes++) {
      const number = String(bytes).padStart(3, '0');
      await cutter.open();
      cutter.cutAfter(bytes);
      await publish(`event ${number}`, `after ${number}`);
      assert.equal((await cutter.wasCut()).length, bytes);
      await reader.seen(`after ${number}`);
    }
    reader.sawExactly(expected);
    await reader.close();
  });
}
