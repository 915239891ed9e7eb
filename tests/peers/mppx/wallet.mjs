// The buyer of every script here: mppx's own client methods. `evm` is told by its documented
// `authorization` option what name and version the token signs under; `tempo` which node to ask.
import { evm, tempo } from 'mppx/client'
import { createClient, http } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import { tempoModerato } from 'viem/tempo/chains'

const wallet = JSON.parse(process.env.PEER_WALLET)
const account = privateKeyToAccount(wallet.private_key)

const kinds = {
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

export const methods = [kinds[wallet.kind ?? 'evm']()]
