// mppx's own seller on Tempo, for the buyer that is ours: what it takes, the SDK's verifier takes.
import http from 'node:http'
import { Mppx, tempo } from 'mppx/server'
import { createClient, http as transport } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import { tempoModerato } from 'viem/tempo/chains'

const site = JSON.parse(process.env.PEER_SITE)
const sponsor = privateKeyToAccount(site.sponsor)
const client = createClient({ chain: tempoModerato, transport: transport(site.rpc_url) })

function seller(more) {
  const charge = tempo.charge({
    chainId: site.chain_id,
    currency: site.currency,
    getClient: () => client,
    recipient: site.recipient,
    ...more,
  })
  return Mppx.create({ methods: [charge], realm: '127.0.0.1', secretKey: site.secret_key })
}

const split = { amount: '0.001', recipient: site.partner }
const routes = {
  '/paid': seller({}).charge({ amount: '0.01' }),
  '/shares': seller({}).charge({ amount: '0.01', splits: [split] }),
  '/sponsored': seller({ feePayer: sponsor }).charge({ amount: '0.01' }),
  '/zero': seller({}).charge({ amount: '0' }),
}
const server = http.createServer(async (request, response) => {
  const result = await Mppx.toNodeListener(routes[request.url])(request, response)
  if (result.status !== 402) response.end('{"ok":true}')
})
server.listen(site.port, '127.0.0.1', () => console.log('selling'))
