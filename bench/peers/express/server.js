// Server-sent events with Express as the tutorials have them: each response is kept in a list, and written to.

import express from "express"

const app = express()
app.disable("x-powered-by")
app.disable("etag")

/** @type {Map<string, Set<express.Response>>} */
const channels = new Map()

app.get("/ready", (request, response) => response.send("ready"))

app.get("/events/:channels", (request, response) => {
  response.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-cache" })
  response.flushHeaders()
  const subscribed = request.params.channels.split(",")
  for (const channel of subscribed) {
    if (!channels.has(channel)) channels.set(channel, new Set())
    channels.get(channel).add(response)
  }
  request.on("close", () => {
    for (const channel of subscribed) channels.get(channel).delete(response)
  })
})

app.post("/publish/:channel", express.text(), (request, response) => {
  response.end()
  const block = `data: ${request.body}\n\n`
  for (const client of channels.get(request.params.channel) ?? []) client.write(block)
})

const server = app.listen({ port: Number(process.argv[2]), host: "127.0.0.1", backlog: 4096 })
// Longer than a publisher pauses.
server.keepAliveTimeout = 65_000
