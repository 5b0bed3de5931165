// Everything at a glance, and the list of notebooks. Both are told what changes.

import { call, listen } from "./api.js";
import { age, byId, h, say, size, span } from "./dom.js";

const notebookLink = (tenant, id) => (id ? h("a", { href: `#/n/${encodeURIComponent(tenant)}/${encodeURIComponent(id)}` }, id) : "");
const badge = (text) => h("span", { class: `badge is-${text}` }, text);

const SIZES = new Set(["memory", "storage"]);
const amount = (key, value) => (SIZES.has(key) ? size(value) : String(Math.round(value * 100) / 100));

function usage(row, key) {
  const used = row.used[key];
  const limit = row.quota[key];
  if (limit == null) return amount(key, used);
  const label = `${amount(key, used)} of ${amount(key, limit)}`;
  return [h("meter", { min: 0, max: Math.max(limit, 1e-9), value: Math.min(used, limit), "aria-label": label }), " ", label];
}

const COLUMNS = {
  sandboxes: [
    ["Sandbox", (r) => h("code", {}, r.sandbox_id)],
    ["State", (r) => badge(r.end_reason ? `${r.state}: ${r.end_reason}` : r.state)],
    ["Notebook", (r) => notebookLink(r.tenant, r.notebook_id)],
    ["Tenant", (r) => r.tenant],
    ["Template", (r) => r.template],
    ["Kernel", (r) => `${r.kernel_type}, ${r.env_source}`],
    ["Age", (r) => age(r.created_at)],
    ["Held for", (r) => age(r.claimed_at)],
    ["Memory limit", (r) => size(r.memory_bytes)],
  ],
  queue: [
    ["Notebook", (r) => notebookLink(r.tenant, r.notebook_id)],
    ["Tenant", (r) => r.tenant],
    ["Template", (r) => r.template],
    ["Waits for", (r) => r.message],
    ["Place", (r) => (r.position ? String(r.position) : "")],
    ["Since", (r) => age(r.since)],
  ],
  notebooks: [
    ["Notebook", (r) => notebookLink(r.tenant, r.notebook_id)],
    ["Tenant", (r) => r.tenant],
    ["Kernel", (r) => badge(r.kernel)],
    ["Runs", (r) => (r.running ? "a cell" : "")],
    ["Cells that wait", (r) => String(r.waiting || "")],
  ],
  pools: [
    ["Template", (r) => r.template],
    ["Kernel", (r) => `${r.kernel_type}, ${r.env_source}`],
    ["Warm", (r) => String(r.warm)],
    ["Target", (r) => String(r.target)],
    ["Being made", (r) => String(r.making)],
    ["Claimed", (r) => String(r.claimed)],
    ["Hits", (r) => String(r.hits)],
    ["Misses", (r) => String(r.misses)],
    ["Failures", (r) => String(r.failures)],
    ["Time to make one", (r) => span(r.lead_s)],
  ],
  tenants: [
    ["Tenant", (r) => r.tenant],
    ["Sandboxes", (r) => usage(r, "sandboxes")],
    ["Memory", (r) => usage(r, "memory")],
    ["Processors", (r) => usage(r, "cpu")],
    ["Cells that wait", (r) => usage(r, "queued")],
    ["Notebooks", (r) => usage(r, "notebooks")],
    ["Kept", (r) => usage(r, "storage")],
    ["Requests a second", (r) => (r.quota.rate == null ? "" : `at most ${r.quota.rate}`)],
  ],
};

const SECTIONS = [
  ["sandboxes", "Sandboxes", "There are no sandboxes."],
  ["queue", "Waiting for a sandbox", "Nobody waits."],
  ["notebooks", "Notebooks in memory", "No notebook is in use."],
  ["pools", "Pools of warm sandboxes", "There are no pools."],
  ["tenants", "Tenants: used, and what they may have", "There are no tenants."],
];

function table(columns, rows, caption) {
  // On a phone the rows are cards, and browsers forget then that it is a table: so it is said.
  const heads = h("tr", { role: "row" }, columns.map(([name]) => h("th", { scope: "col", role: "columnheader" }, name)));
  const body = rows.map((row) => h("tr", { role: "row" },
    columns.map(([name, cell]) => h("td", { "data-label": name, role: "cell" }, cell(row)))));
  return h("table", { class: "rows", role: "table" }, h("caption", { class: "hidden" }, caption), h("thead", {}, heads), h("tbody", {}, body));
}

// Where the keyboard is must survive a table that is drawn anew.
function keepingFocus(element, draw) {
  const at = element.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  draw();
  if (at) [...element.querySelectorAll("a")].find((link) => link.getAttribute("href") === at)?.focus();
}

function runtimes(rows) {
  return rows.map((row) => h("div", { class: "runtime" },
    h("h3", {}, `${row.runtime} `, badge(row.ready ? "ready" : "not ready")),
    row.proven.map((each) => h("details", {},
      h("summary", {}, `Template ${each.template}, network ${each.network}: `,
        `${each.facts.filter((fact) => fact.granted).length} of ${each.facts.length} capabilities proven`),
      h("table", { class: "rows" }, h("tbody", {}, each.facts.map((fact) => h("tr", {},
        h("th", { scope: "row" }, fact.name), h("td", {}, badge(fact.granted ? "proven" : "not proven")),
        h("td", { class: "evidence" }, fact.evidence)))))))));
}

export function showOverview(main, onState) {
  const sections = Object.fromEntries([...SECTIONS, ["runtimes", "Runtimes and what is proven of them", ""]].map(([name, title]) => {
    const content = h("div", { class: "content" });
    const section = h("section", { id: name, "aria-labelledby": `${name}-title`, hidden: true }, h("h2", { id: `${name}-title` }, title), content);
    return [name, { section, content }];
  }));
  main.replaceChildren(h("h1", { class: "hidden" }, "Overview"), ...Object.values(sections).map(({ section }) => section));

  const draw = (name, part) => {
    const { section, content } = sections[name];
    section.hidden = false;
    const [, title, nothing] = SECTIONS.find(([each]) => each === name) || [name, "", ""];
    keepingFocus(content, () => {
      const open = [...content.querySelectorAll("details[open] > summary")].map((summary) => summary.textContent);
      if (name === "runtimes") content.replaceChildren(...runtimes(part.rows));
      else content.replaceChildren(part.rows.length ? table(COLUMNS[name], part.rows, title) : h("p", { class: "note" }, nothing));
      if (part.more) content.append(h("p", { class: "note" }, `and ${part.more} more`));
      for (const summary of content.querySelectorAll("details > summary")) summary.parentElement.open = open.includes(summary.textContent);
    });
  };
  return listen("overview", (parts) => { for (const [name, part] of Object.entries(parts)) draw(name, part); }, onState);
}

export function showNotebooks(main, who, onState) {
  let tenants = [who.tenant];
  let tenant = sessionStorage.getItem("tenant") || who.tenant;
  let listed = [];
  let busy = new Map();
  const filter = h("input", { type: "search", id: "filter", placeholder: "part of a name", oninput: () => draw() });
  const chosen = h("select", { id: "tenant", onchange: () => { tenant = chosen.value; sessionStorage.setItem("tenant", tenant); load(); } });
  const content = h("div", { class: "content", "aria-live": "off" });
  const name = h("input", { id: "new", required: true, maxlength: 256, placeholder: "name" });
  const open = h("form", { class: "bar", onsubmit: async (event) => {
    event.preventDefault();
    try {
      if (!listed.some((each) => each.notebook_id === name.value)) {
        await call(tenant, "Notebooks.CreateCell", { notebook_id: name.value, cell_id: crypto.randomUUID?.() || `cell-${Date.now()}` });
      }
      location.hash = `#/n/${encodeURIComponent(tenant)}/${encodeURIComponent(name.value)}`;
    } catch (refused) { say(refused.message, true); }
  } }, h("label", { for: "new" }, "Open or create"), name, h("button", {}, "Open"));
  main.replaceChildren(h("h1", {}, "Notebooks"),
    h("div", { class: "bar" }, h("label", { for: "filter" }, "Filter"), filter,
      who.operator && h("label", { for: "tenant" }, "Tenant"), who.operator && chosen), open, content);

  const draw = () => {
    const rows = listed.filter((each) => each.notebook_id.toLowerCase().includes(filter.value.toLowerCase()));
    const columns = [
      ["Notebook", (r) => notebookLink(tenant, r.notebook_id)],
      ["Kernel", (r) => badge(busy.get(r.notebook_id)?.kernel || "none")],
      ["Cells that wait", (r) => String(busy.get(r.notebook_id)?.waiting || "")],
      ["Changed", (r) => age(r.changed_at)],
      ["Labels", (r) => Object.entries(r.labels || {}).map(([key, value]) => h("span", { class: "badge" }, `${key}: ${value}`))],
    ];
    keepingFocus(content, () => content.replaceChildren(rows.length ? table(columns, rows, "Notebooks")
      : h("p", { class: "note" }, listed.length ? "No notebook has a name like that." : "There are no notebooks yet.")));
  };
  const load = async () => {
    try {
      const asked = tenant;
      const found = [];
      for (let after = ""; ;) {
        const { notebooks = [] } = await call(asked, "Notebooks.List", { limit: 1000, after_notebook_id: after });
        found.push(...notebooks);
        if (notebooks.length < 1000 || found.length >= 10000) break;
        after = notebooks.at(-1).notebook_id;
      }
      if (asked === tenant) { listed = found; draw(); }
    } catch (refused) { say(refused.message, true); }
  };
  const choose = (names) => {
    tenants = names;
    if (!tenants.includes(tenant)) tenant = who.tenant;
    chosen.replaceChildren(...tenants.map((each) => h("option", { value: each, selected: each === tenant }, each)));
  };
  choose([...new Set([who.tenant, tenant])]);
  load();
  return listen("overview", (parts) => {
    if (parts.tenants) choose(parts.tenants.rows.map((row) => row.tenant));
    if (!parts.notebooks) return;
    const before = busy;
    busy = new Map(parts.notebooks.rows.filter((row) => row.tenant === tenant).map((row) => [row.notebook_id, row]));
    const known = new Set(listed.map((each) => each.notebook_id));
    if ([...busy.keys()].some((id) => !known.has(id)) || before.size > busy.size) load();
    else draw();
  }, onState);
}
