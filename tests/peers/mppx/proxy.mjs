// mppx's own proxy with the routes of scripts/bench: what the gateway is measured against.
// The polyfill comes first: on Node 20 the proxy throws without URLPattern.
import 'urlpattern-polyfill'
import http from 'node:http'
import { Proxy, Service } from 'mppx/proxy'
import { evm, Mppx } from 'mppx/server'

const site = JSON.parse(process.env.BENCH_SITE)
const mppx = Mppx.create({
  methods: [
    evm({
      authorization: { name: site.token.name, version: site.token.version },
      chainId: site.chain_id,
      currency: site.token.address,
      decimals: site.token.decimals,
      recipient: site.recipient,
      x402: { facilitator: site.facilitator },
    }),
  ],
  realm: '127.0.0.1',
  secretKey: site.secret_key,
})
const api = Service.from('api', {
  baseUrl: site.upstream,
  routes: { 'GET /free': true, 'GET /paid': mppx.evm.charge({ amount: site.price }) },
})
http.createServer(Proxy.create({ services: [api] }).listener).listen(site.port, '127.0.0.1')
