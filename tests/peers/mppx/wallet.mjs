// The buyer of every script here: mppx's own `evm` client method, told by its documented
// `authorization` option what name and version the token signs under.
import { evm } from 'mppx/client'
import { privateKeyToAccount } from 'viem/accounts'

const wallet = JSON.parse(process.env.PEER_WALLET)

export const methods = [
  evm({
    account: privateKeyToAccount(wallet.private_key),
    authorization: { name: wallet.name, version: wallet.version },
    currencies: [wallet.token],
    decimals: wallet.decimals,
    maxAmount: wallet.max_amount,
    networks: [wallet.chain_id],
  }),
]
