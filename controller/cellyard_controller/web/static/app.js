// Who is here, and which page they see: the address after # says it, so that loading it again leads back.

import { logIn, logOut, me, onLoggedOut } from "./api.js";
import { byId, h, refreshAges, say } from "./dom.js";
import { NotebookPage } from "./notebook.js";
import { showNotebooks, showOverview } from "./overview.js";

const main = byId("main");
let who = null;
let page = null; // { close() }

function state(now, why = "") {
  byId("link").textContent = { live: "", gone: "This notebook is not there" }[now] ?? "Not connected; trying again";
  document.body.classList.toggle("away", now !== "live");
  if (why && /[ ]/.test(why) && why !== "the controller is stopping") say(why, true);
}

function show() {
  page?.close();
  page = null;
  state("live");
  say("");
  if (!who) { showLogin(); return; }
  const [, name = "", ...rest] = location.hash.split("/");
  const [tenant = "", id = ""] = rest.map(decode);
  for (const link of document.querySelectorAll("nav a")) {
    const here = link.getAttribute("href") === `#/${name}`;
    if (here) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  document.title = id ? `${id}: Cellyard` : "Cellyard";
  if (name === "n" && id) page = new NotebookPage(main, tenant, id, who, state);
  else if (name === "notebooks") page = { close: showNotebooks(main, who, state) };
  else page = { close: showOverview(main, state) };
}

function decode(text) {
  try { return decodeURIComponent(text); } catch { return text; }
}

function showLogin() {
  document.title = "Log in: Cellyard";
  const token = h("input", { type: "password", id: "token", autocomplete: "off", required: true });
  const form = h("form", { class: "login", onsubmit: async (event) => {
    event.preventDefault();
    const given = token.value;
    token.value = "";
    try {
      enter(await logIn(given));
    } catch (refused) {
      say(refused.status === 401 ? "This token is not known." : refused.message, true);
      token.focus();
    }
  } }, h("h1", {}, "Log in"), h("label", { for: "token" }, "Token"), token,
  h("p", { class: "note" }, "The operator's stands in the file http.token of the data folder; a tenant has their own."),
  h("button", {}, "Log in"));
  main.replaceChildren(form);
  token.focus();
}

function enter(someone) {
  who = someone;
  for (const id of ["pages", "logout", "help-button"]) byId(id).hidden = !who;
  byId("who").textContent = who ? (who.operator ? "operator" : who.tenant) : "";
  show();
}

onLoggedOut(() => { if (who) { enter(null); say("You are logged out."); } });
byId("logout").addEventListener("click", async () => {
  try { await logOut(); } catch (refused) { if (refused.status !== 401) { say(refused.message, true); return; } }
  enter(null);
});
byId("help-button").addEventListener("click", () => byId("help").showModal());
document.addEventListener("keydown", (event) => {
  if (event.key === "?" && who && !event.target.closest("input, textarea, select")) byId("help").showModal();
});
addEventListener("hashchange", () => { show(); scrollTo(0, 0); main.focus({ preventScroll: true }); });
addEventListener("pagehide", () => {
  if (page?.place) sessionStorage.setItem(`place:${location.hash}`, JSON.stringify(page.place()));
});
setInterval(refreshAges, 1000);

me().then(enter, (refused) => { enter(null); if (refused.status !== 401) say(refused.message, true); });
