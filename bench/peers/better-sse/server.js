// better-sse as its documentation has it: a session for each response, channels that broadcast to sessions.

import { createServer } from "node:http"
import { text } from "node:stream/consumers"
import { createChannel, createSession } from "better-sse"

const channels = new Map()

function channelOf(name) {
  if (!channels.has(name)) channels.set(name, createChannel())
  return channels.get(name)
}

const server = createServer(async (request, response) => {
  const [, action, name] = request.url.split("/")
  if (action === "events") {
    const session = await createSession(request, response)
    for (const channel of name.split(",")) channelOf(channel).register(session)
  } else if (action === "publish") {
    const data = await text(request)
    response.end()
    channelOf(name).broadcast(data)
  } else {
    response.end()
  }
})

server.listen({ port: Number(process.argv[2]), host: "127.0.0.1", backlog: 4096 })
// Longer than a publisher pauses.
server.keepAliveTimeout = 65_000
