// The back end behind Pushpin. It says for each request that comes through it which channels the held connection
// follows; and it publishes over Pushpin's control port, which closes its connection after each request: so what comes
// while one is on its way goes with the next.

import { Agent, createServer, request as connect } from "node:http"
import { text } from "node:stream/consumers"

const [port, controlPort] = process.argv.slice(2).map(Number)
const agent = new Agent({ keepAlive: false, maxSockets: 1 })

let items = []
let answers = []
let publishing = false

async function publishAll() {
  publishing = true
  while (items.length > 0) {
    const [body, responses] = [JSON.stringify({ items }), answers]
    items = []
    answers = []
    const status = await post(body).catch(() => 502)
    for (const response of responses) response.writeHead(status).end()
  }
  publishing = false
}

function post(body) {
  return new Promise((resolve, reject) => {
    const options = { host: "127.0.0.1", port: controlPort, path: "/publish/", method: "POST", agent }
    const headers = { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(body) }
    connect({ ...options, headers }, (answer) => {
      answer.resume().on("end", () => resolve(answer.statusCode)).on("error", reject)
    }).on("error", reject).end(body)
  })
}

const server = createServer(async (request, response) => {
  const [, action, name] = request.url.split("/")
  if (action === "events") {
    response.writeHead(200, {
      "Content-Type": "text/event-stream",
      "Grip-Hold": "stream",
      "Grip-Channel": name.split(",").join(", "),
    })
    response.end()
  } else if (action === "publish") {
    const data = await text(request)
    items.push({ channel: name, formats: { "http-stream": { content: `data: ${data}\n\n` } } })
    answers.push(response)
    if (!publishing) publishAll()
  } else {
    // Pushpin's parts take a second to find each other; before that they lose messages, and it closes the streams that
    // these belong to.
    response.writeHead(process.uptime() < 3 ? 503 : 200).end()
  }
})

server.listen({ port, host: "127.0.0.1", backlog: 4096 })
// Longer than a publisher pauses.
server.keepAliveTimeout = 65_000
