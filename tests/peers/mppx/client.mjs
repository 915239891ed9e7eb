// One buyer, two verbs; prints a JSON list of what came back.
//   client.mjs pay METHOD BODY URL...          calls each URL and pays whatever it asks
//   client.mjs present METHOD BODY URL URL...  pays the first URL's challenge, and presents that
//                                              one credential at each of the other URLs in turn
import { Challenge, Receipt } from 'mppx'
import { Mppx } from 'mppx/client'
import { methods } from './wallet.mjs'

const [verb, method, body, ...urls] = process.argv.slice(2)
const mppx = Mppx.create({ methods, polyfill: false })
const own = process.env.PEER_AUTHORIZATION
const headers = {
  ...(body ? { 'content-type': 'application/json' } : {}),
  ...(own ? { authorization: own } : {}),
}
const request = { method, headers, ...(body ? { body } : {}) }

async function shown(response) {
  return {
    body: await response.text(),
    challenges: response.status === 402 ? Challenge.fromResponseList(response).length : 0,
    receipt: response.headers.has('payment-receipt') ? Receipt.fromResponse(response) : null,
    status: response.status,
  }
}

async function present([first, ...others]) {
  const credential = await mppx.createCredential(await mppx.rawFetch(first, request))
  const paid = { ...request, headers: { ...request.headers, authorization: credential } }
  const answers = []
  for (const url of others) answers.push(await shown(await mppx.rawFetch(url, paid)))
  return answers
}

async function pay(targets) {
  const answers = []
  for (const url of targets) answers.push(await shown(await mppx.fetch(url, request)))
  return answers
}

console.log(JSON.stringify(await { pay, present }[verb](urls)))
