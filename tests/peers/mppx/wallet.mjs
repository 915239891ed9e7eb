// The buyer of every script here: mppx's own client methods. `evm` is told by its documented
// `authorization` option what name and version the token signs under, `tempo` which node to ask;
// the tokens of `stripe` are minted where the wallet says.
import { evm, stripe, tempo } from 'mppx/client'
import { createClient, http } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import { tempoModerato } from 'viem/tempo/chains'

const wallet = JSON.parse(process.env.PEER_WALLET)
const account = wallet.private_key && privateKeyToAccount(wallet.private_key)

// As a wallet's server does it: Stripe's test helper for shared payment tokens.
async function createToken({ amount, currency, expiresAt, networkId, paymentMethod }) {
  const form = new URLSearchParams({
    payment_method: paymentMethod,
    'usage_limits[currency]': currency,
    'usage_limits[max_amount]': amount,
    'usage_limits[expires_at]': String(expiresAt),
    'seller_details[network_id]': networkId,
  })
  const response = await fetch(wallet.mint_url, {
    method: 'POST',
    body: form,
    headers: { authorization: `Bearer ${wallet.mint_key}` },
  })
  return (await response.json()).id
}

const kinds = {
  stripe: () => stripe.charge({ createToken, paymentMethod: wallet.payment_method }),
  evm: () =>
    evm({
      account,
      authorization: { name: wallet.name, version: wallet.version },
      currencies: [wallet.token],
      decimals: wallet.decimals,
      maxAmount: wallet.max_amount,
      networks: [wallet.chain_id],
    }),
  tempo: () =>
    tempo.charge({
      account,
      expectedChainId: wallet.chain_id,
      getClient: () => createClient({ chain: tempoModerato, transport: http(wallet.rpc_url) }),
      mode: wallet.mode,
    }),
}

export const methods = [kinds[wallet.mint_url ? 'stripe' : (wallet.kind ?? 'evm')]()]
