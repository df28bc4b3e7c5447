// Long polling with Express as the tutorials have it: a request is held until there is something new, then answered.
// A client says how far it has come, so that nothing is missed between two requests.

import express from "express"

const HELD_MS = 30_000
const KEPT = 1_000

const app = express()
app.disable("x-powered-by")
app.disable("etag")

class Channel {
  /** The newest events; the last of them is number `next - 1`. */
  events = []
  next = 0
  /** @type {Set<() => void>} */
  waiting = new Set()

  publish(data) {
    this.events.push(data)
    this.next += 1
    // In steps, as it would cost more to move all of them for each event.
    if (this.events.length >= 2 * KEPT) this.events.splice(0, KEPT)
    const waiting = this.waiting
    this.waiting = new Set()
    for (const answer of waiting) answer()
  }

  after(cursor) {
    const first = this.next - this.events.length
    return { next: this.next, events: this.events.slice(Math.max(cursor - first, 0)) }
  }
}

/** @type {Map<string, Channel>} */
const channels = new Map()

function channelOf(name) {
  if (!channels.has(name)) channels.set(name, new Channel())
  return channels.get(name)
}

app.get("/ready", (request, response) => response.send("ready"))

app.get("/poll/:channel", (request, response) => {
  const channel = channelOf(request.params.channel)
  // Who doesn't say where it is gets all that is kept: so nothing is missed before its first request is here.
  const cursor = Number(request.query.after ?? 0)
  if (cursor < channel.next) return response.json(channel.after(cursor))

  const answer = () => {
    clearTimeout(timer)
    channel.waiting.delete(answer)
    response.json(channel.after(cursor))
  }
  const timer = setTimeout(answer, HELD_MS)
  channel.waiting.add(answer)
  response.on("close", () => {
    clearTimeout(timer)
    channel.waiting.delete(answer)
  })
})

app.post("/publish/:channel", express.text(), (request, response) => {
  response.end()
  channelOf(request.params.channel).publish(request.body)
})

const server = app.listen({ port: Number(process.argv[2]), host: "127.0.0.1", backlog: 4096 })
// Longer than a publisher pauses.
server.keepAliveTimeout = 65_000
