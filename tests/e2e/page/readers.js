// Runs in the browser: any number of readers, whose sightings the test collects.
import { fetchEventSource } from '/node_modules/@microsoft/fetch-event-source/lib/esm/index.js';

const readers = new Map();
const CLOSED = 2;

const kinds = {
  EventSource(url, { types, withCredentials }, see, fail) {
    const source = new EventSource(url, { withCredentials });
    return listen(source, types, see, fail);
  },

  'event-source-polyfill'(url, { types, token }, see, fail) {
    const source = new EventSourcePolyfill(url, { headers: { Authorization: `Bearer ${token}` } });
    return listen(source, types, see, fail);
  },

  'fetch-event-source'(url, { token }, see, fail) {
    return fetchWith({ headers: { Authorization: `Bearer ${token}` } }, url, see, fail);
  },

  // It takes an id when it reads that line, not when the event is whole: cut between the two, it would skip the event.
  // What its user can do about that: send the id of the last event that was handed out.
  'fetch-event-source, own id'(url, { token }, see, fail) {
    let lastId;
    const fetchWithId = (input, init) => {
      const headers = { ...init.headers };
      delete headers['last-event-id'];
      if (lastId) headers['last-event-id'] = lastId;
      return fetch(input, { ...init, headers });
    };
    const remember = (event) => {
      lastId = event.id;
      see(event);
    };
    return fetchWith({ headers: { Authorization: `Bearer ${token}` }, fetch: fetchWithId }, url, remember, fail);
  },
};

function listen(source, types, see, fail) {
  for (const type of types) source.addEventListener(type, (event) => see({ id: event.lastEventId, type: event.type, data: event.data }));
  source.addEventListener('error', () => source.readyState === CLOSED && fail('the source closed for good'));
  return () => source.close();
}

function fetchWith(options, url, see, fail) {
  const abort = new AbortController();
  fetchEventSource(url, {
    ...options,
    signal: abort.signal,
    openWhenHidden: true,
    onmessage: ({ id, event, data }) => see({ id, type: event || 'message', data }),
    onclose() {
      throw new Error('the stream ended: come back');
    },
  }).catch((error) => fail(String(error)));
  return () => abort.abort();
}

window.openReader = (name, kind, url, options) => {
  const reader = { seen: [] };
  readers.set(name, reader);
  reader.close = kinds[kind](url, options, (event) => reader.seen.push(event), (failure) => (reader.failure ??= failure));
};

/** What was seen since the last look, by reader. */
window.look = () => {
  const found = [];
  for (const [name, { seen, failure }] of readers) {
    if (seen.length > 0 || failure) found.push({ name, failure, events: seen.splice(0) });
  }
  return found;
};

window.closeReader = (name) => {
  readers.get(name).close();
  readers.delete(name);
};

window.ready = true;
