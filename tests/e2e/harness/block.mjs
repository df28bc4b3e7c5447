// Reads a stream as strictly as the server promises to write it: stricter than any client may be.
import assert from 'node:assert/strict';

/** Bytes in, events out; what is not finished by a blank line stays. */
export class BlockReader {
  #decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  #text = '';
  #first = true;
  retry;

  /** @returns {{id: string, type: string, data: string}[]} */
  read(bytes) {
    this.#text += this.#decoder.decode(bytes, { stream: true });
    const blocks = this.#text.split('\n\n');
    this.#text = blocks.pop();
    return blocks.map((block) => this.#event(block));
  }

  #event(block) {
    assert.ok(!block.includes('\r'), `a carriage return in ${JSON.stringify(block)}`);
    assert.ok(!block.startsWith('\ufeff'), 'a byte order mark');
    // Heartbeats stand between blocks, `:ok` and padding before the first one.
    const lines = block.split('\n');
    while (lines[0].startsWith(':')) lines.shift();
    if (this.#first && lines[0].startsWith('retry: ')) this.retry = Number(lines.shift().slice('retry: '.length));
    this.#first = false;
    let type = 'message';
    if (lines[0].startsWith('event: ')) type = lines.shift().slice('event: '.length);
    if (lines[0].startsWith('retry: ')) lines.shift();
    const id = lines.pop();
    assert.ok(id?.startsWith('id: '), `no id at the end of ${JSON.stringify(block)}`);
    assert.ok(lines.length > 0, `no data in ${JSON.stringify(block)}`);
    for (const line of lines) assert.ok(line.startsWith('data: ') || line === 'data:', `${JSON.stringify(line)} in ${JSON.stringify(block)}`);
    return { id: id.slice('id: '.length), type, data: lines.map((line) => line.slice('data: '.length)).join('\n') };
  }
}
