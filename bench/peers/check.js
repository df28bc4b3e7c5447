// Each peer is started as its target says and has twenty subscribers; what is published arrives once and in order.

import assert from "node:assert/strict"
import { spawn } from "node:child_process"
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs"
import http from "node:http"
import net from "node:net"
import { tmpdir } from "node:os"
import path from "node:path"
import { text } from "node:stream/consumers"
import test from "node:test"
import { setTimeout as sleep } from "node:timers/promises"
import { fileURLToPath } from "node:url"
import { parse } from "smol-toml"
import { WebSocket } from "ws"

const PAYLOADS = [0, 1, 2].map((sequence) => `@@1 ${sequence} 12345 xxxxxxxx;`)
const SUBSCRIBERS = 20

const here = path.dirname(fileURLToPath(import.meta.url))
const files = readdirSync(here, { recursive: true })
  .filter((file) => file.endsWith(".toml") && !file.startsWith("node_modules") && !file.endsWith("Cargo.toml"))
assert(files.length >= 10, "the targets are found")

for (const file of files.sort()) {
  const target = parse(readFileSync(path.join(here, file), "utf8"))
  test(`${target.name} (${file})`, { timeout: 30_000 }, async () => {
    const running = await start(target, path.join(here, path.dirname(file)))
    try {
      await check(target, running.words)
    } finally {
      await running.stop()
    }
  })
}

async function check(target, words) {
  const subscribe = { sse: events, websocket: messages, "long-polling": polls }[target.transport ?? "sse"]
  const one = (channel) => fill(target.subscribe, { ...words, channel })
  const paths = Array.from({ length: SUBSCRIBERS }, () => one("a"))
  if (target.subscribe_more) paths.push(one("b") + fill(target.subscribe_more, { ...words, channel: "a" }))
  const other = await subscribe(target, words, one("c"))
  const subscribers = await Promise.all(paths.map((path) => subscribe(target, words, path)))

  for (const data of PAYLOADS) {
    const publish = { method: "POST", port: "{port}", body: "{data}", headers: {}, ...target.publish }
    const all = { ...words, data, json: data, channel: "a" }
    const answer = await ask(all, publish.path, publish, fill(publish.port, all), fill(publish.body, all))
    answer.resume()
    assert.equal(Math.floor(answer.statusCode / 100), 2, `publishing is answered ${answer.statusCode}`)
  }

  for (const subscriber of subscribers) {
    for (let turn = 0; subscriber.received().length < PAYLOADS.length && turn < 500; turn++) await sleep(10)
  }
  await sleep(50)
  for (const subscriber of subscribers) assert.deepEqual(subscriber.received(), PAYLOADS)
  assert.deepEqual(other.received(), [], "another channel gets nothing")
}

async function start(target, cwd) {
  const tmp = mkdtempSync(path.join(tmpdir(), "tidings-peer-"))
  const [port, port2, port3] = await freePorts(3)
  const words = { port, port2, port3, tmp }
  const [program, ...args] = target.command.map((word) => fill(word, words))
  const env = { ...process.env, ...target.env, PORT: port, PORT2: port2, PORT3: port3, TMP: tmp }
  const child = spawn(program, args, { cwd, env, detached: true, stdio: ["ignore", "inherit", "inherit"] })
  const exited = new Promise((resolve) => child.on("exit", resolve))
  const stop = async () => {
    if (child.exitCode === null) process.kill(-child.pid, "SIGTERM")
    await exited
    rmSync(tmp, { recursive: true, force: true })
  }
  for (let turn = 0; turn < 500; turn++) {
    const status = await ask(words, target.ready, {}).then((answer) => answer.resume().statusCode, () => 599)
    if (status < 500) return { words, stop }
    await sleep(20)
  }
  await stop()
  throw new Error(`${target.name} doesn't get ready`)
}

async function freePorts(count) {
  const servers = await Promise.all(Array.from({ length: count }, () => new Promise((resolve, reject) => {
    const server = net.createServer().on("error", reject)
    server.listen(0, "127.0.0.1", () => resolve(server))
  })))
  return servers.map((server) => {
    const { port } = server.address()
    server.close()
    return port
  })
}

/** Words in braces that are known are replaced, any other is left alone. */
function fill(template, words) {
  return template.replace(/\{(\w+)\}/g, (whole, word) => words[word] ?? whole)
}

function ask(words, where, { method = "GET", headers = {} }, port = words.port, body = "") {
  return new Promise((resolve, reject) => {
    const options = { host: "127.0.0.1", port, path: fill(where, words), method, headers, agent: false }
    http.request(options, resolve).on("error", reject).end(body)
  })
}

const payloadsOf = (text) => text.match(/@@[^;]*;/g) ?? []

async function events(target, words, where) {
  const answer = await ask(words, where, { headers: { Accept: "text/event-stream", ...target.headers } })
  assert.equal(answer.statusCode, 200)
  assert.match(answer.headers["content-type"], /^text\/event-stream/)
  let all = ""
  answer.setEncoding("utf8").on("data", (part) => (all += part)).on("error", () => {})
  return { received: () => payloadsOf(all) }
}

async function messages(target, words, where) {
  const socket = new WebSocket(`ws://127.0.0.1:${words.port}${where}`, { headers: target.headers })
  let all = ""
  socket.on("message", (message) => (all += message)).on("close", () => {})
  await new Promise((resolve, reject) => socket.on("open", resolve).on("error", reject))
  if (target.hello) socket.send(target.hello)
  return { received: () => payloadsOf(all) }
}

async function polls(target, words, where) {
  let all = ""
  const cursors = [target.cursor ?? []].flat()
  const poll = async () => {
    const headers = { ...target.headers }
    let path = where
    for (const { into_header, into_query, value } of cursors.map((cursor, index) => ({ ...cursor, value: values[index] }))) {
      if (value === undefined) continue
      if (into_header) headers[into_header] = value
      else path += `${path.includes("?") ? "&" : "?"}${into_query}=${value}`
    }
    const answer = await ask(words, path, { headers })
    const body = await text(answer)
    all += body
    cursors.forEach(({ header, json }, index) => {
      const value = header ? answer.headers[header.toLowerCase()] : JSON.parse(body)[json]
      values[index] = value ?? values[index]
    })
  }
  const values = []
  // Until the server is stopped.
  ;(async () => { for (;;) await poll() })().catch(() => {})
  return { received: () => payloadsOf(all) }
}
