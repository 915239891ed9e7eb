"""A headless Chromium, driven over its DevTools protocol, and a wallet for the pages in it."""

import asyncio
import itertools
import json
import subprocess
import tempfile
import threading
import time
import urllib.request
from base64 import b64decode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.components import chromium
from tests.support.paid import wait_until

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
START_S = 60
CALL_S = 30
DECLINED = 4001
UNKNOWN_CHAIN = 4902
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--no-default-browser-check", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-extensions", "--mute-audio", "--hide-scrollbars",
    "--remote-debugging-port=0", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip
PROVIDER = """(() => {
  const waiting = new Map();
  let count = 0;
  window.walletAnswers = (id, error, result) => {
    const [resolve, reject] = waiting.get(id);
    waiting.delete(id);
    if (error) reject(Object.assign(new Error(error.message), error));
    else resolve(result);
  };
  window.violations = [];
  addEventListener("securitypolicyviolation", (event) =>
    window.violations.push(`${event.violatedDirective}: ${event.blockedURI}`));
  if (!HAS_WALLET) return;
  window.ethereum = {
    request: ({ method, params }) => new Promise((resolve, reject) => {
      waiting.set(++count, [resolve, reject]);
      window.walletAsked(JSON.stringify({ id: count, method, params }));
    }),
  };
})();"""


class WalletError(Exception):
    """What an EIP-1193 provider rejects with."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Wallet:
    """A wallet that signs with a key of the test; its chain is what it is told to be on."""

    def __init__(self, key: bytes, chain_id: int, rpc_url: str) -> None:
        from eth_account import Account

        self.account = Account.from_key(key)
        self.chain_id = chain_id
        self.known = {chain_id}
        self.rpc_url = rpc_url
        self.declines: set[str] = set()
        self.asked: list[str] = []
        self.added: list[dict[str, Any]] = []
        self.signs = threading.Event()
        """Cleared: the owner has not made up his mind yet."""
        self.signs.set()

    def __call__(self, method: str, params: list[Any]) -> Any:
        self.asked.append(method)
        if method in self.declines:
            raise WalletError(DECLINED, "User rejected the request.")
        match method:
            case "eth_requestAccounts":
                return [self.account.address.lower()]
            case "eth_chainId":
                return hex(self.chain_id)
            case "wallet_switchEthereumChain":
                self._switch(int(params[0]["chainId"], 16))
                return None
            case "wallet_addEthereumChain":
                self.added.append(params[0])
                self.known.add(int(params[0]["chainId"], 16))
                return None
            case "eth_signTypedData_v4":
                return self._sign(json.loads(params[1]))
            case "eth_call":
                return self._node(method, params)
        raise WalletError(4200, f"{method} is not supported")

    @property
    def signatures(self) -> int:
        return self.asked.count("eth_signTypedData_v4")

    def _switch(self, chain_id: int) -> None:
        if chain_id not in self.known:
            raise WalletError(UNKNOWN_CHAIN, "Unrecognized chain ID.")
        self.chain_id = chain_id

    def _sign(self, typed: dict[str, Any]) -> str:
        # As wallets do: what is signed for another chain is refused.
        assert typed["domain"]["chainId"] == self.chain_id
        assert self.signs.wait(CALL_S)
        return "0x" + self.account.sign_typed_data(full_message=typed).signature.hex()

    def _node(self, method: str, params: list[Any]) -> Any:
        asked = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        fields = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.rpc_url, json.dumps(asked).encode(), fields)  # noqa: S310
        with urllib.request.urlopen(request, timeout=CALL_S) as answer:  # noqa: S310 - our own node
            return json.loads(answer.read())["result"]


class Browser:
    """One Chromium; every context in it has its own storage."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self.listeners: dict[str, Callable[[str, dict[str, Any]], None]] = {}
        self.pool = ThreadPoolExecutor(8)

    @contextmanager
    def opened(self) -> Iterator["Browser"]:
        program = chromium()
        assert program is not None
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            command = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
            silent = subprocess.DEVNULL
            with subprocess.Popen(command, stdout=silent, stderr=silent) as process:
                self._thread.start()
                try:
                    place = Path(profile) / "DevToolsActivePort"
                    lines = wait_until(
                        lambda: place.exists() and len(place.read_text().split()) == 2
                        and place.read_text().split(), "Chromium listens", START_S,
                    )  # fmt: skip
                    self._run(self._connect(f"ws://127.0.0.1:{lines[0]}{lines[1]}"))
                    yield self
                finally:
                    self._run(self._session.close())
                    process.terminate()
                    self._loop.call_soon_threadsafe(self._loop.stop)
                    self._thread.join(CALL_S)
                    self.pool.shutdown(wait=False)

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_S)

    async def _connect(self, url: str) -> None:
        self._session = aiohttp.ClientSession()
        self._socket = await self._session.ws_connect(url, max_msg_size=0)
        self._reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        async for message in self._socket:
            told = json.loads(message.data)
            if "id" in told:
                future = self._waiting.pop(told["id"], None)
                if future is not None and not future.done():
                    future.set_result(told)
            elif (listener := self.listeners.get(told.get("sessionId", ""))) is not None:
                listener(told["method"], told["params"])

    async def _ask(self, method: str, session: str, params: dict[str, Any]) -> Any:
        key = next(self._ids)
        self._waiting[key] = asyncio.get_running_loop().create_future()
        message = {"id": key, "method": method, "params": params}
        await self._socket.send_json(message | ({"sessionId": session} if session else {}))
        told = await self._waiting[key]
        assert "error" not in told, (method, told["error"])
        return told["result"]

    def ask(self, method: str, session: str = "", **params: Any) -> Any:
        return self._run(self._ask(method, session, params))

    def context(self) -> str:
        key: str = self.ask("Target.createBrowserContext")["browserContextId"]
        return key

    def page(self, context: str, wallet: Wallet | None = None) -> "Page":
        return Page(self, context, wallet)


class Page:
    """One tab. `wallet` is injected before any script of the page runs."""

    def __init__(self, browser: Browser, context: str, wallet: Wallet | None) -> None:
        self._browser = browser
        self._wallet = wallet
        self.said: list[str] = []
        """What the console said: errors, and what the policy has blocked."""
        target = browser.ask("Target.createTarget", url="about:blank", browserContextId=context)
        self._target = target["targetId"]
        attached = browser.ask("Target.attachToTarget", targetId=self._target, flatten=True)
        self._session = attached["sessionId"]
        browser.listeners[self._session] = self._heard
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        self.ask("Runtime.addBinding", name="walletAsked")
        source = PROVIDER.replace("HAS_WALLET", "true" if wallet else "false")
        self.ask("Page.addScriptToEvaluateOnNewDocument", source=source)

    def ask(self, method: str, **params: Any) -> Any:
        return self._browser.ask(method, self._session, **params)

    def _heard(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.bindingCalled":
            self._browser.pool.submit(self._wallet_asked, json.loads(params["payload"]))
        elif method == "Log.entryAdded":
            self.said.append(params["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.said.append(str(params["exceptionDetails"].get("exception")))
        elif method == "Page.javascriptDialogOpening":
            self._browser.pool.submit(self.ask, "Page.handleJavaScriptDialog", accept=True)
            self.said.append(f"dialog: {params['message']}")

    def _wallet_asked(self, call: dict[str, Any]) -> None:
        assert self._wallet is not None
        error, result = None, None
        try:
            result = self._wallet(call["method"], call["params"])
        except WalletError as refusal:
            error = {"code": refusal.code, "message": str(refusal)}
        self.run(f"walletAnswers({call['id']}, {json.dumps(error)}, {json.dumps(result)})")

    # What a person does and sees

    def go(self, url: str) -> None:
        self.ask("Page.navigate", url=url)
        self.loaded(url.partition("?")[0])

    def loaded(self, url: str = "http") -> None:
        ready = f"document.readyState === 'complete' && location.href.startsWith({json.dumps(url)})"
        wait_until(lambda: self.run(ready), f"{url} is loaded", CALL_S)

    def reload(self) -> None:
        self.run("window.isOld = true")
        self.ask("Page.reload")
        self.renewed()

    def renewed(self) -> None:
        """Wait until the page was loaded anew."""
        fresh = "document.readyState === 'complete' && !window.isOld"
        wait_until(lambda: self.run(fresh), "the page is loaded anew", CALL_S)

    def run(self, expression: str) -> Any:
        told = self.ask(
            "Runtime.evaluate", expression=expression, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in told:
            return None  # between two documents
        return told["result"].get("value")

    def text(self, selector: str) -> str:
        """Return the text that can be seen there; empty where nothing can."""
        place = f"document.querySelector({json.dumps(selector)})"
        found = self.run(f"{place} && {place}.checkVisibility() ? {place}.innerText : ''")
        return found or ""

    def sees(self, selector: str, *words: str) -> str:
        """Wait until all of `words` can be read there."""
        end = time.monotonic() + CALL_S
        while not all(word in self.text(selector) for word in words) or not self.text(selector):
            assert time.monotonic() < end, (words, self.text("main"), self.said)
            time.sleep(0.02)
        return self.text(selector)

    def click(self, selector: str) -> None:
        """Click where it can be seen."""
        self.sees(selector)
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    def press(self, key: str, code: int, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            pressed = {"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code}
            typed = {"text": text} if text and kind == "keyDown" else {}
            self.ask("Input.dispatchKeyEvent", **pressed, **typed)

    @property
    def violations(self) -> list[str]:
        found: list[str] = self.run("window.violations")
        return found + [line for line in self.said if "Content Security Policy" in line]

    def picture(self, name: str, *, dark: bool = False, width: int = 1200) -> Path:
        """Keep a screenshot of the whole page as a test artifact."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.ask("Emulation.setEmulatedMedia", features=scheme)
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        shot = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        ARTIFACTS.mkdir(exist_ok=True)
        path = ARTIFACTS / f"{name}.png"
        path.write_bytes(b64decode(shot["data"]))
        return path
