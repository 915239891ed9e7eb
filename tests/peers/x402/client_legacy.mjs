// The legacy client of version 1, which is too heavy for every run: ./scripts/pay-with-legacy-x402.
//   client_legacy.mjs pay METHOD BODY URL...   calls each URL and pays whatever it asks
import { privateKeyToAccount } from 'viem/accounts'
import { decodeXPaymentResponse, wrapFetchWithPayment } from 'x402-fetch'

const [, method, body, ...urls] = process.argv.slice(2)
const account = privateKeyToAccount(JSON.parse(process.env.PEER_WALLET).private_key)
const paying = wrapFetchWithPayment(fetch, account)
const answers = []
for (const url of urls) {
  const response = await paying(url, { method, ...(body ? { body } : {}) })
  const receipt = response.headers.get('x-payment-response')
  answers.push({
    body: await response.text(),
    challenges: 0,
    receipt: receipt && decodeXPaymentResponse(receipt),
    status: response.status,
  })
}
console.log(JSON.stringify(answers))
