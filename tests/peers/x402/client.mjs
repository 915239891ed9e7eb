// One buyer with the official Node client, four verbs; prints JSON.
//   client.mjs pay METHOD BODY URL...          calls each URL and pays whatever it asks
//   client.mjs permit METHOD BODY URL...       the same, and takes no offer but one of Permit2
//   client.mjs present METHOD BODY URL URL...  signs for the first URL's 402, and presents that one
//                                              payment at each of the other URLs in turn
//   client.mjs stream METHOD BODY URL          pays, and prints what arrives as it arrives
import { ExactEvmScheme, UptoEvmScheme } from '@x402/evm'
import { decodePaymentResponseHeader, wrapFetchWithPayment, x402Client, x402HTTPClient } from '@x402/fetch'
import { privateKeyToAccount } from 'viem/accounts'

const [verb, method, body, ...urls] = process.argv.slice(2)
const account = privateKeyToAccount(JSON.parse(process.env.PEER_WALLET).private_key)
const client = new x402Client()
  .register('eip155:*', new ExactEvmScheme(account))
  .register('eip155:*', new UptoEvmScheme(account))
const headers = body ? { 'content-type': 'application/json' } : {}
const request = { method, headers, ...(body ? { body } : {}) }

async function shown(response) {
  const receipt = response.headers.get('payment-response')
  return {
    body: await response.text(),
    challenges: response.headers.has('payment-required') ? 1 : 0,
    receipt: receipt && decodePaymentResponseHeader(receipt),
    status: response.status,
  }
}

async function pay(targets) {
  const paying = wrapFetchWithPayment(fetch, client)
  const answers = []
  for (const url of targets) answers.push(await shown(await paying(url, request)))
  return answers
}

async function permit(targets) {
  const isOne = ({ scheme, extra }) => scheme === 'exact' && extra?.assetTransferMethod === 'permit2'
  client.registerPolicy((_, offers) => offers.filter(isOne))
  return await pay(targets)
}

async function present([first, ...others]) {
  const http = new x402HTTPClient(client)
  const unpaid = await fetch(first, request)
  const asked = http.getPaymentRequiredResponse((name) => unpaid.headers.get(name), undefined)
  const signed = http.encodePaymentSignatureHeader(await client.createPaymentPayload(asked))
  const paid = { ...request, headers: { ...headers, ...signed } }
  const answers = []
  for (const url of others) answers.push(await shown(await fetch(url, paid)))
  return answers
}

async function stream([url]) {
  const response = await wrapFetchWithPayment(fetch, client)(url, request)
  for await (const chunk of response.body) console.log(JSON.stringify(Buffer.from(chunk).toString()))
  return { status: response.status, receipt: response.headers.has('payment-response') }
}

console.log(JSON.stringify(await { pay, permit, present, stream }[verb](urls)))
