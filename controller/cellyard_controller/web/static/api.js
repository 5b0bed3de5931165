// What the page asks the controller for. The token is sent once, to log in, and kept nowhere.

export class Refused extends Error {
  constructor(status, body) {
    super(body.message || `the controller answers with ${status}`);
    this.status = status;
    this.reason = body.reason || "";
  }
}

let whenLoggedOut = () => {};
export const onLoggedOut = (what) => { whenLoggedOut = what; };

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", redirect: "error", ...options });
  } catch {
    throw new Refused(0, { message: "the controller cannot be reached" });
  }
  const body = await response.json().catch(() => ({}));
  if (response.ok) return body;
  if (response.status === 401 && path !== "login") whenLoggedOut();
  throw new Refused(response.status, body);
}

const post = (path, body) => ask(path, {
  method: "POST",
  headers: { "Content-Type": "application/json", "X-Cellyard": "1" },
  body: JSON.stringify(body),
});

export const me = () => ask("me");
export const logIn = (token) => post("login", { token });
export const logOut = () => post("logout", {});
export const call = (tenant, method, message) => post(`call/${method}`, { tenant, message });
export const renderMarkdown = async (text) => (await post("markdown", { text })).html;
export const path = (name, parameters) => `${name}?${new URLSearchParams(parameters)}`;

// A stream that goes on while the page can be seen: a hidden page costs nothing, and starts anew when it is back.
// `check` asks for what the stream is about: what is not there any more is not asked for again.
export function listen(address, onEvent, onState = () => {}, { always = false, check = me } = {}) {
  let source = null;
  let closed = false;
  let again = 0;

  const open = () => {
    if (closed || source || (document.hidden && !always)) return;
    source = new EventSource(address);
    source.onopen = () => onState("live");
    source.onmessage = (event) => onEvent(JSON.parse(event.data));
    source.addEventListener("over", (event) => lost(JSON.parse(event.data)));
    source.onerror = () => lost("");
  };
  // Why it ended is in the answer to the next request; a controller that is gone may be back soon.
  const lost = async (why) => {
    shut();
    if (closed) return;
    onState("away", why);
    try {
      await check();
    } catch (refused) {
      if (refused.status === 404) onState("gone", refused.message);
      if (refused.status === 401 || refused.status === 404) { closed = true; return; }
    }
    clearTimeout(again);
    again = setTimeout(open, 1000);
  };
  const shut = () => { source?.close(); source = null; };
  const seen = () => { if (document.hidden && !always) shut(); else open(); };
  document.addEventListener("visibilitychange", seen);
  open();
  return () => {
    closed = true;
    clearTimeout(again);
    document.removeEventListener("visibilitychange", seen);
    shut();
  };
}
