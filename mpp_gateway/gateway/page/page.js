"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const loadedAt = Date.now();
  // The seller's clock: a wrong one here would sign what has ended already.
  const nowS = () => data.now + Math.floor((Date.now() - loadedAt) / 1000);
  const here = location.href.split("#")[0];
  const slot = `mpp-gateway:${data.method} ${location.pathname}${location.search}`;
  const TEXT_BYTES_MAX = 1048576;
  const KEPT_S = 2592000;
  const PROPAGATES_MS = 500; // how long what one tab writes may stay unseen in another
  const wallets = [];
  let isBusy = false;
  let hasEnded = false;

  // ---- what is remembered of a payment, so that no call is paid twice ------------------------

  let held = null; // where nothing can be stored
  function remembered() {
    try {
      const found = JSON.parse(localStorage.getItem(slot));
      return found && typeof found.credential === "string" ? found : null;
    } catch {
      return held;
    }
  }
  function remember(record) {
    held = record;
    try {
      if (record === null) localStorage.removeItem(slot);
      else localStorage.setItem(slot, JSON.stringify(record));
    } catch {
      // It is held for as long as the page is open.
    }
  }

  function forgetOld() {
    try {
      for (const name of Object.keys(localStorage)) {
        if (!name.startsWith("mpp-gateway:")) continue;
        const record = JSON.parse(localStorage.getItem(name));
        if (!(record.at > nowS() - KEPT_S)) localStorage.removeItem(name);
      }
    } catch {
      // What cannot be read is not ours.
    }
  }

  // ---- what is shown -------------------------------------------------------------------------

  function show(kind, text, more, buttons) {
    const state = byId("state");
    state.className = kind;
    state.textContent = text;
    byId("more").textContent = more || "";
    isBusy = kind === "busy";
    for (const id of ["pay", "again", "anew"]) {
      byId(id).hidden = !(buttons || {})[id];
      if ((buttons || {})[id]) byId(id).textContent = buttons[id];
    }
    for (const input of document.querySelectorAll("input, select")) input.disabled = isBusy;
  }
  function clock(seconds) {
    const then = new Date(seconds * 1000);
    const time = then.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    const isToday = then.toDateString() === new Date().toDateString();
    return isToday ? time : `${then.toLocaleDateString()} ${time}`;
  }
  function chosen() {
    const input = document.querySelector("input[name=offer]:checked");
    return input ? data.offers[input.value] : null;
  }
  function refresh(kind, text, more) {
    if (isBusy && !text) return;
    const record = remembered();
    if (record) return showRecord(record);
    const offer = chosen();
    if (data.method !== "GET") {
      return show("", "A browser cannot repeat this request, so this page cannot pay for it.",
        "Use the line for a terminal below, or any MPP client.");
    }
    if (!offer) {
      return show("", "No wallet in a browser can pay this.", "Any MPP client can: the fields of"
        + " this answer say how.");
    }
    byId("amount").textContent = offer.label.split(" ")[0];
    byId("unit").textContent = offer.unit;
    if (nowS() >= offer.expires - 5) {
      return show("", "This price has expired; nothing was paid.", "Ask for a new one.",
        { anew: "Get a new price" });
    }
    if (!wallets.length) {
      return show(kind || "", text || "No wallet was found in this browser.",
        more || "Open this page in a browser with an Ethereum wallet, or pay from a terminal.");
    }
    byId("wallets").hidden = wallets.length < 2;
    show(kind || "", text || `Your wallet signs one payment on ${offer.network}. You pay no gas.`,
      more || `It is charged ${data.isPaidFirst ? "before the API is asked" : "when the answer is"
        + " there"}. The price is good until ${clock(offer.expires)}.`, { pay: `Pay ${offer.label}` });
  }
  function showRecord(record) {
    const when = `${clock(record.at)}, ${record.label}`;
    if (record.state === "answered") {
      return show("good", `You have paid for this call (${when}).`,
        "To see the answer again costs nothing, as long as the seller keeps it.",
        { again: "Show the answer again", anew: "Pay for another call" });
    }
    show("", `A payment for this call was signed (${when}).`, "What became of it is not known here."
      + " To ask with the same payment pays once at most.",
      { again: "Ask with that payment", anew: "Start over" });
  }

  // ---- the wallet (EIP-1193, found by EIP-6963 or at window.ethereum) -------------------------

  function addWallet(provider, name) {
    if (!provider || typeof provider.request !== "function") return;
    if (wallets.some((known) => known.provider === provider)) return;
    wallets.push({ provider, name });
    const option = document.createElement("option");
    option.textContent = name;
    option.value = String(wallets.length - 1);
    byId("wallet").append(option);
    if (!hasEnded) refresh();
  }
  class Stop extends Error {
    constructor(text, more) { super(text); this.more = more; }
  }
  const DECLINED = 4001;
  const UNKNOWN_CHAIN = 4902;
  function codeOf(error) {
    const inner = error && error.data && error.data.originalError;
    return (inner && inner.code) || (error && error.code);
  }
  async function ask(provider, method, params) {
    try {
      return await provider.request({ method, params });
    } catch (error) {
      if (codeOf(error) === DECLINED) {
        throw new Stop("You declined in the wallet.", "Nothing was paid.");
      }
      throw error;
    }
  }
  async function onChain(provider, offer) {
    const wanted = `0x${offer.domain.chainId.toString(16)}`;
    const isThere = async () => BigInt(await ask(provider, "eth_chainId", [])) === BigInt(wanted);
    if (await isThere()) return;
    show("busy", `Switching the wallet to ${offer.network} …`);
    try {
      await ask(provider, "wallet_switchEthereumChain", [{ chainId: wanted }]);
    } catch (error) {
      if (codeOf(error) !== UNKNOWN_CHAIN) throw error;
      if (!offer.chain) {
        throw new Stop(`Your wallet does not know ${offer.network}.`,
          "Add it in the wallet, then try again. Nothing was paid.");
      }
      await ask(provider, "wallet_addEthereumChain", [offer.chain]);
      if (!(await isThere())) {
        await ask(provider, "wallet_switchEthereumChain", [{ chainId: wanted }]);
      }
    }
    if (!(await isThere())) {
      throw new Stop(`The wallet is not on ${offer.network}.`, "Nothing was paid.");
    }
  }
  function inUnits(minor, decimals) {
    const digits = minor.toString().padStart(decimals + 1, "0");
    const whole = digits.slice(0, digits.length - decimals);
    const rest = digits.slice(digits.length - decimals).replace(/0+$/, "");
    return rest ? `${whole}.${rest}` : whole;
  }
  async function hasMoney(provider, offer, from) {
    const call = { to: offer.domain.verifyingContract,
      data: `0x70a08231${from.slice(2).toLowerCase().padStart(64, "0")}` };
    let minor;
    try {
      minor = BigInt(await provider.request({ method: "eth_call", params: [call, "latest"] }));
    } catch {
      return; // the seller looks too
    }
    if (minor < BigInt(offer.amount)) {
      throw new Stop(`This account has ${inUnits(minor, offer.decimals)} ${offer.unit} on`
        + ` ${offer.network}, and the call costs ${offer.label}.`,
        "Nothing was signed or paid. Choose another account in the wallet, or fill this one.");
    }
  }
  function typedData(offer, from, validBefore) {
    const field = (type) => (name) => ({ name, type });
    return {
      types: {
        EIP712Domain: [
          { name: "name", type: "string" }, { name: "version", type: "string" },
          { name: "chainId", type: "uint256" }, { name: "verifyingContract", type: "address" },
        ],
        TransferWithAuthorization: [
          ...["from", "to"].map(field("address")),
          ...["value", "validAfter", "validBefore"].map(field("uint256")),
          { name: "nonce", type: "bytes32" },
        ],
      },
      primaryType: "TransferWithAuthorization",
      domain: offer.domain,
      message: { from, to: offer.recipient, value: offer.amount, validAfter: "0",
        validBefore: String(validBefore), nonce: offer.nonce },
    };
  }
  function base64url(text) {
    let raw = "";
    for (const byte of new TextEncoder().encode(text)) raw += String.fromCharCode(byte);
    return btoa(raw).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  }
  function randomKey() {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  }
  async function signed(provider, offer) {
    show("busy", "Waiting for the wallet …", "It asks which account pays.");
    const [from] = await ask(provider, "eth_requestAccounts", []);
    if (!/^0x[0-9a-fA-F]{40}$/.test(from || "")) throw new Stop("The wallet showed no account.");
    await onChain(provider, offer);
    await hasMoney(provider, offer, from);
    const least = nowS() + data.lifetime;
    const validBefore = Math.min(Math.max(offer.expires, least), nowS() + data.lifetimeMax);
    const typed = typedData(offer, from, validBefore);
    show("busy", "Waiting for your signature …", `${offer.label} to ${offer.recipient}`);
    const answer = await ask(provider, "eth_signTypedData_v4", [from, JSON.stringify(typed)]);
    const signature = String(answer).replace(/0[01]$/, (v) => (v === "00" ? "1b" : "1c"));
    const credential = {
      challenge: offer.echo,
      payload: { type: "authorization", ...typed.message, signature },
      source: `did:pkh:eip155:${offer.domain.chainId}:${from}`,
    };
    return { state: "signed", at: nowS(), label: offer.label, field: offer.field,
      credential: `Payment ${base64url(JSON.stringify(credential))}`, key: randomKey(),
      validBefore, explorer: offer.chain ? offer.chain.blockExplorerUrls[0] : "" };
  }
  async function pay() {
    const offer = chosen();
    const wallet = wallets[Number(byId("wallet").value) || 0];
    if (isBusy || !offer || !wallet || remembered()) return refresh();
    if (nowS() >= offer.expires - 5) return refresh();
    isBusy = true;
    let record;
    try {
      record = await signed(wallet.provider, offer);
    } catch (error) {
      isBusy = false;
      const isOurs = error instanceof Stop;
      const said = error && error.message ? String(error.message).slice(0, 300) : "";
      return refresh("bad", isOurs ? error.message : "The wallet could not sign.",
        isOurs ? error.more : `${said} Nothing was paid.`);
    }
    if (remembered()) {
      isBusy = false;
      return refresh(); // another tab was first; what was signed here has not left this page
    }
    // Written down before it is sent: after a reload, or in another tab, it is this payment that
    // is asked with, and no second one is signed.
    remember(record);
    if (!navigator.locks) {
      // Without TLS: two tabs may both have written. What is there in the end is what is sent.
      await new Promise((resolve) => setTimeout(resolve, PROPAGATES_MS));
      const last = remembered();
      if (!last || last.key !== record.key) {
        isBusy = false;
        return refresh();
      }
    }
    await present(record);
  }
  async function alone(work) {
    if (!navigator.locks) return work();
    return navigator.locks.request(slot, { ifAvailable: true }, (lock) => {
      if (lock) return work();
      return show("", "Another tab is paying for this call.", "Go on there; nothing is signed here.",
        { again: "Look again" });
    });
  }
  let isTaken = false;
  async function once(work) {
    if (isTaken || isBusy) return;
    isTaken = true;
    try {
      await alone(work);
    } finally {
      isTaken = false;
    }
  }

  // ---- the call, and what became of the money --------------------------------------------------

  async function present(record) {
    const isNew = record.state === "signed" && !record.isSent;
    remember({ ...record, isSent: true });
    show("busy", "Waiting for the answer …", "Do not pay again, however long it takes.");
    let response;
    let body;
    try {
      response = await fetch(here, {
        headers: { [record.field]: record.credential, "Idempotency-Key": record.key,
          Accept: "*/*" },
        cache: "no-store", redirect: "manual", referrerPolicy: "no-referrer",
      });
      body = new Uint8Array(await response.arrayBuffer());
    } catch {
      hasEnded = true;
      return show("bad", "The answer was lost on its way.", "The payment may have been made, so do"
        + " not pay again: to ask with the same payment pays once at most.",
        { again: "Ask again with the same payment" });
    }
    hasEnded = true;
    const receipt = response.headers.get("Payment-Receipt");
    const type = (response.headers.get("Content-Type") || "").toLowerCase();
    const problem = type.startsWith("application/problem+json") ? parsed(body) : null;
    const text = showAnswer(response, type, body, problem);
    if (response.ok) {
      remember({ ...record, state: "answered", isSent: true });
      if (receipt) showReceipt(receipt, record);
      show("good", receipt ? `Paid ${record.label}.` : "Answered, without a receipt.",
        receipt ? "The answer and the receipt are below." : "The seller asked for no payment, or"
          + " does not say that it took it.", { anew: "Pay for another call" });
      byId("answer-title").focus();
      return;
    }
    const outcome = response.headers.get("Payment-Outcome") || "";
    const state = (problem && problem.payment) || outcome.split(";")[0].trim();
    tellOfMoney(state, response.status, problem, text, record, isNew);
    byId("state").focus();
  }
  function parsed(body) {
    try {
      const document_ = JSON.parse(new TextDecoder().decode(body));
      return document_ && typeof document_ === "object" ? document_ : null;
    } catch {
      return null;
    }
  }
  function tellOfMoney(state, status, problem, text, record, isNew) {
    const again = { again: "Ask again with the same payment" };
    const detail = String((problem && problem.detail) || text);
    const slug = String((problem && problem.type) || "").split(/[/:]/).pop();
    const until = problem && problem.creditedUntil ? ` Good until ${problem.creditedUntil}.` : "";
    if (state === "credited" || state === "settled") {
      return show("bad", `${detail} You have paid, and the seller owes you this call.`,
        `Ask again with the same payment: it costs nothing more.${until}`, again);
    }
    if (state === "refunding" || state === "refunded") {
      remember(null);
      return show("bad", `${detail} The money is sent back to you.`,
        "The old payment buys nothing more; a new try is a new payment.", { anew: "Start over" });
    }
    if (state === "released" || slug === "rail-unavailable") {
      return show("bad", `${detail} Nothing was charged.`,
        `The same payment is good until ${clock(record.validBefore)} and pays once at most.`,
        { ...again, anew: "Start over" });
    }
    if (slug === "payment-in-progress") {
      return show("", "The seller is still at work on this payment.", "Wait, then ask again with it;"
        + " do not pay again.", again);
    }
    if (slug === "settlement-unknown" || slug === "gateway-fault") {
      return show("bad", `${detail}`, "The payment may have been made: ask again with it, which pays"
        + " once at most.", again);
    }
    if (slug === "answer-not-kept" || slug === "idempotency-key-reused") {
      remember({ ...record, state: "answered" });
      return show("", "This payment has bought its answer, which is not kept any more.", "",
        { anew: "Pay for another call" });
    }
    if (status === 402) {
      return show("bad", `The payment was not accepted: ${detail}`, isNew
        ? "The seller says that nothing was charged." : "It may have bought its call before.",
        { ...again, anew: "Start over" });
    }
    if (status === 429 || status === 503) {
      return show("bad", `${detail} Nothing was charged for this try.`, "", again);
    }
    show("bad", `The API answered ${status}, without a receipt.`, "Whether it was paid for is not"
      + " said. To ask again with the same payment pays once at most.",
      { ...again, anew: "Start over" });
  }

  // ---- what was bought: text stays text, everything else is a file ------------------------------

  function isText(type) {
    return /^text\/|[/+](json|xml|yaml|x-ndjson|javascript|x-www-form-urlencoded)\b/.test(type);
  }
  function showAnswer(response, type, body, problem) {
    byId("answer").hidden = false;
    const status = response.type === "opaqueredirect" ? "a redirect" : String(response.status);
    byId("answer-title").textContent = `Answer: ${status} ${response.statusText}`.trim();
    const size = body.length < 1024 ? `${body.length} bytes` : `${(body.length / 1024).toFixed(1)} KiB`;
    byId("about-answer").textContent = `${type || "no type"}, ${size}`;
    byId("receipt").hidden = true;
    const shown = byId("text");
    let text = "";
    shown.hidden = !isText(type) || !body.length;
    if (!shown.hidden) {
      text = new TextDecoder().decode(body.slice(0, TEXT_BYTES_MAX));
      if (type.includes("json")) text = indented(text);
      shown.textContent = text;
    }
    const file = byId("file");
    file.hidden = !body.length || problem !== null;
    if (file.href) URL.revokeObjectURL(file.href);
    if (!file.hidden) {
      // Never with the type that it came with: a page of the upstream's would run as ours.
      file.href = URL.createObjectURL(new Blob([body], { type: "application/octet-stream" }));
      file.download = fileName(response, type);
    }
    return problem ? "" : `The API answered ${response.status}.`;
  }
  function indented(text) {
    try {
      return JSON.stringify(JSON.parse(text), null, 2);
    } catch {
      return text;
    }
  }
  function fileName(response, type) {
    const last = location.pathname.split("/").pop().replace(/[^A-Za-z0-9._-]/g, "") || "answer";
    if (last.includes(".")) return last;
    const known = { json: "json", html: "html", plain: "txt", pdf: "pdf", png: "png", jpeg: "jpg",
      csv: "csv", markdown: "md", mpeg: "mp3", mp4: "mp4", zip: "zip", xml: "xml" };
    const kind = type.split(";")[0].split(/[/+]/).pop().trim();
    return `${last}.${Object.hasOwn(known, kind) ? known[kind] : "bin"}`;
  }
  function showReceipt(field, record) {
    let receipt;
    try {
      const raw = atob(field.replaceAll("-", "+").replaceAll("_", "/"));
      receipt = JSON.parse(new TextDecoder().decode(Uint8Array.from(raw, (c) => c.charCodeAt(0))));
    } catch {
      return;
    }
    const rows = byId("receipt-rows");
    rows.replaceChildren();
    for (const name of ["status", "method", "reference", "timestamp"]) {
      if (typeof receipt[name] !== "string") continue;
      const term = document.createElement("dt");
      const value = document.createElement("dd");
      term.textContent = name;
      value.textContent = receipt[name];
      if (name === "reference" && record.explorer && /^0x[0-9a-f]{64}$/i.test(receipt[name])) {
        const link = document.createElement("a");
        link.href = `${record.explorer}/tx/${receipt[name]}`;
        link.rel = "noreferrer noopener";
        link.textContent = receipt[name];
        value.replaceChildren(link);
      }
      rows.append(term, value);
    }
    byId("receipt").hidden = false;
  }

  // ---- from here on it runs ----------------------------------------------------------------------

  function startOver() {
    const record = remembered();
    const isOpen = record && record.state !== "answered" && record.validBefore > nowS();
    const warning = "The payment that you signed stays good until"
      + ` ${isOpen ? clock(record.validBefore) : ""}. If the seller does take it, a new one pays`
      + " a second time. Start over all the same?";
    if (isOpen && !confirm(warning)) return;
    remember(null);
    location.reload();
  }
  byId("pay").addEventListener("click", () => void once(pay));
  byId("again").addEventListener("click", () => {
    const record = remembered();
    if (record) void once(() => present(record));
    else refresh();
  });
  byId("anew").addEventListener("click", startOver);
  byId("wallet").addEventListener("change", () => refresh());
  for (const input of document.querySelectorAll("input[name=offer]")) {
    input.addEventListener("change", () => refresh());
    if (!data.offers[input.value]) input.disabled = true;
  }
  const first = Object.keys(data.offers)[0];
  const radio = document.querySelector(`input[name=offer][value="${Number(first)}"]`);
  if (radio) radio.checked = true;
  for (const line of document.querySelectorAll(".line")) {
    const copy = line.querySelector(".copy");
    const command = line.querySelector(".command");
    copy.hidden = !navigator.clipboard;
    copy.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(command.textContent);
        copy.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(command);
        copy.textContent = "Press Ctrl+C";
      }
    });
  }
  addEventListener("storage", (event) => {
    if (event.key === slot && !isBusy && !hasEnded) refresh();
  });
  addEventListener("pageshow", (event) => {
    if (event.persisted && !isBusy && !hasEnded) refresh();
  });
  addEventListener("beforeunload", (event) => {
    if (isBusy) event.preventDefault();
  });
  addEventListener("eip6963:announceProvider", (event) => {
    const { info, provider } = event.detail || {};
    addWallet(provider, String((info && info.name) || "Wallet").slice(0, 60));
  });
  dispatchEvent(new Event("eip6963:requestProvider"));
  addEventListener("ethereum#initialized", () => addWallet(window.ethereum, "Browser wallet"));
  if (!wallets.length) addWallet(window.ethereum, "Browser wallet");
  setInterval(() => {
    const offer = chosen();
    if (offer && !byId("pay").hidden && nowS() >= offer.expires - 5) refresh();
  }, 1000);
  forgetOld();
  refresh();
})();
