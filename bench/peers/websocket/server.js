// WebSockets with `ws` as the tutorials have them: a loop over the clients that are open, `send` to each.

import { createServer } from "node:http"
import { buffer } from "node:stream/consumers"
import { WebSocket, WebSocketServer } from "ws"

/** @type {Map<string, Set<WebSocket>>} */
const channels = new Map()

const server = createServer(async (request, response) => {
  const [, action, name] = request.url.split("/")
  if (action !== "publish") return response.end()
  const data = await buffer(request)
  response.end()
  for (const client of channels.get(name) ?? []) {
    if (client.readyState === WebSocket.OPEN) client.send(data, { binary: false })
  }
})

const sockets = new WebSocketServer({ server, perMessageDeflate: false, clientTracking: false })
sockets.on("connection", (socket, request) => {
  const name = request.url.split("/")[2]
  if (!channels.has(name)) channels.set(name, new Set())
  channels.get(name).add(socket)
  socket.on("close", () => channels.get(name).delete(socket))
  socket.on("error", () => socket.terminate())
})

server.listen({ port: Number(process.argv[2]), host: "127.0.0.1", backlog: 4096 })
// Longer than a publisher pauses.
server.keepAliveTimeout = 65_000
