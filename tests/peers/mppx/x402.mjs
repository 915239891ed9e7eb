// mppx as a buyer of x402: a gateway that sells both is asked for x402 alone. Verbs and output as
// those of ../x402/client.mjs.
import { Mppx } from 'mppx/client'
import { methods } from './wallet.mjs'

const [verb, method, body, ...urls] = process.argv.slice(2)
const headers = body ? { 'content-type': 'application/json' } : {}
const request = { method, headers, ...(body ? { body } : {}) }
let held

// Below mppx, which says what it prefers itself.
async function onlyX402(input, init) {
  const asked = new Request(input, init)
  asked.headers.set('accept-payment', 'x402/exact')
  const payment = asked.headers.get('payment-signature')
  if (payment && verb === 'present') {
    held = payment
    return new Response()
  }
  return fetch(asked)
}

const mppx = Mppx.create({ fetch: onlyX402, methods, polyfill: false })

async function shown(response) {
  const receipt = response.headers.get('payment-response')
  return {
    body: await response.text(),
    challenges: response.headers.has('payment-required') ? 1 : 0,
    receipt: receipt && JSON.parse(Buffer.from(receipt, 'base64').toString()),
    status: response.status,
  }
}

async function pay(targets) {
  const answers = []
  for (const url of targets) answers.push(await shown(await mppx.fetch(url, request)))
  return answers
}

async function present([first, ...others]) {
  await mppx.fetch(first, request)
  const paid = { ...request, headers: { ...headers, 'payment-signature': held } }
  const answers = []
  for (const url of others) answers.push(await shown(await fetch(url, paid)))
  return answers
}

async function stream([url]) {
  const response = await mppx.fetch(url, request)
  for await (const chunk of response.body) console.log(JSON.stringify(Buffer.from(chunk).toString()))
  return { status: response.status, receipt: response.headers.has('payment-response') }
}

console.log(JSON.stringify(await { pay, present, stream }[verb](urls)))
