// The buyer of every script here: mppx's own `evm` client method, told by its documented
// `authorization` option what name and version the token signs under; or its `stripe` method, whose
// tokens are minted where the wallet says.
import { evm, stripe } from 'mppx/client'
import { privateKeyToAccount } from 'viem/accounts'

const wallet = JSON.parse(process.env.PEER_WALLET)

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

const paysByCard = () => [stripe.charge({ createToken, paymentMethod: wallet.payment_method })]

const paysOnChain = () => [
  evm({
    account: privateKeyToAccount(wallet.private_key),
    authorization: { name: wallet.name, version: wallet.version },
    currencies: [wallet.token],
    decimals: wallet.decimals,
    maxAmount: wallet.max_amount,
    networks: [wallet.chain_id],
  }),
]

export const methods = wallet.mint_url ? paysByCard() : paysOnChain()
