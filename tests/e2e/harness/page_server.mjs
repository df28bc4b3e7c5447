// Serves the page that the browsers run their readers in: another origin than the hub.
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import http from 'node:http';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const here = fileURLToPath(new URL('..', import.meta.url));
const types = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript; charset=utf-8' };

export class PageServer {
  #server;

  static async start() {
    const pages = new PageServer();
    pages.#server = http.createServer((request, response) => {
      serve(new URL(request.url, 'http://page'), response).catch(() => response.writeHead(404).end());
    });
    pages.#server.listen(0, '127.0.0.1');
    await once(pages.#server, 'listening');
    pages.origin = `http://127.0.0.1:${pages.#server.address().port}`;
    return pages;
  }

  async stop() {
    this.#server.close();
    this.#server.closeAllConnections();
    await once(this.#server, 'close');
  }
}

async function serve(url, response) {
  // Cookies don't look at ports: set here, sent to the hub too.
  const token = url.searchParams.get('token');
  if (token) response.setHeader('set-cookie', `tidings_token=${token}; Path=/; HttpOnly; SameSite=Lax`);
  let file = url.pathname === '/' ? 'page/index.html' : url.pathname === '/readers.js' ? 'page/readers.js' : url.pathname.slice(1);
  // The packages import each other as bundlers allow it.
  if (!path.extname(file)) file += '.js';
  const body = await readFile(path.join(here, file));
  response.writeHead(200, { 'content-type': types[path.extname(file)], 'cache-control': 'no-store' }).end(body);
}
