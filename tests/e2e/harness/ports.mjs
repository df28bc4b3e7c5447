import { once } from 'node:events';
import net from 'node:net';

/** A port that is free now, for a server that must come back on the same one. */
export async function freePort(host = '127.0.0.1') {
  const server = net.createServer().listen(0, host);
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}
