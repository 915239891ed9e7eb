// What MPPX_CONFIG names: a plain object, since mppx's `defineConfig` cannot be imported without
// a package that mppx does not depend on.
import { methods } from './wallet.mjs'

export default { methods }
