// One notebook: its cells as they are, what happens to them, and what may be done with it.

import { call, listen, path } from "./api.js";
import { CellView } from "./cells.js";
import { age, h, newId, say, span, word } from "./dom.js";

const SESSION = (() => {
  const known = sessionStorage.getItem("session");
  const session = known || `console-${newId()}`;
  sessionStorage.setItem("session", session);
  return session;
})();
const MOST_FOLLOWED = 2; // streams of a browser to one host are few

export class NotebookPage {
  constructor(main, tenant, id, who, onState) {
    this.tenant = tenant;
    this.id = id;
    this.cells = [];
    this.selected = null;
    this.executions = new Map(); // those that have not ended: id -> { cell, state }
    this.asked = new Set(JSON.parse(sessionStorage.getItem("asked") || "[]"));
    this.following = new Map();
    this.kernelState = "none";
    this.mayRun = who.scope !== "read";
    this.#build(main);
    const check = () => call(tenant, "Executions.List", { notebook_id: id, limit: 1 });
    this.stop = listen(path("watch", { tenant, notebook: id }), (event) => this.#told(event), onState, { check });
    this.onKey = (event) => this.#key(event);
    document.addEventListener("keydown", this.onKey);
  }

  close() {
    this.stop();
    document.removeEventListener("keydown", this.onKey);
    for (const stop of this.following.values()) stop();
  }

  #build(main) {
    const button = (text, what, more = {}) => h("button", { type: "button", onclick: what, ...more }, text);
    this.kernel = h("span", { id: "kernel", class: "badge", role: "status", "aria-label": "Kernel" });
    this.progress = h("span", { id: "progress" });
    this.interruptButton = button("Interrupt", () => this.interrupt(), { id: "interrupt", disabled: true });
    this.list = h("div", { id: "cells" });
    this.history = h("section", { id: "history", "aria-labelledby": "history-title", hidden: true });
    this.historyButton = button("History", () => this.toggleHistory(), { "aria-expanded": "false", "aria-controls": "history" });
    main.replaceChildren(
      h("h1", {}, this.id, h("span", { class: "tenant" }, ` of ${this.tenant}`)),
      h("div", { class: "bar toolbar", role: "toolbar", "aria-label": "Notebook" },
        h("span", {}, "Kernel: "), this.kernel, this.interruptButton,
        button("Restart", () => this.restart(), { id: "restart" }),
        button("Add a cell", () => this.addBeside(this.selected || this.cells.at(-1), 1), { id: "add" }),
        this.historyButton, this.progress),
      this.history, this.list);
  }

  // What is told

  #told(event) {
    if (event.snapshot_begin) this.seen = new Set();
    else if (event.snapshot_end) this.#snapshotEnds();
    else if (event.kernel_changed) this.#kernelIs(event.kernel_changed);
    else if (event.cell_changed) this.#cellChanged(event.cell_changed);
    else if (event.cell_removed) this.#cellRemoved(event.cell_removed.cell_id);
    else if (event.execution_changed) this.#executionChanged(event.execution_changed);
  }

  #snapshotEnds() {
    for (const cell of [...this.cells]) if (!this.seen.has(cell.id)) this.#cellRemoved(cell.id);
    this.seen = null;
    this.#number();
    const place = JSON.parse(sessionStorage.getItem(`place:${location.hash}`) || "null");
    if (!this.placed && place) {
      const cell = this.#find(place.cell);
      if (cell) cell.element.focus({ preventScroll: true });
      scrollTo(0, place.top);
    }
    this.placed = true;
  }

  #kernelIs(kernel) {
    this.kernelState = word(kernel.state, "KERNEL_STATE_");
    const why = kernel.end_reason ? ` (${kernel.end_reason})` : "";
    this.kernel.textContent = this.kernelState + why;
    this.kernel.className = `badge is-${this.kernelState}`;
    this.kernel.title = kernel.sandbox_id ? `${kernel.sandbox_id}, ${kernel.template}, network ${kernel.network}, ${kernel.env_source}` : "";
    this.interruptButton.disabled = !["busy", "starting"].includes(this.kernelState);
    if (this.kernelState !== "starting") this.progress.textContent = "";
  }

  #cellChanged({ cell, after_cell_id: after, with_outputs: withOutputs }) {
    let view = this.#find(cell.cell_id);
    if (!view) {
      view = new CellView(this, cell.cell_id);
      this.cells.push(view);
    }
    this.seen?.add(view.id);
    this.#place(view, after || "");
    view.changed(cell);
    if (withOutputs) {
      view.outputs.reset(cell.execution_id || "", cell.outputs);
      view.shown = cell.execution_id || "";
      view.showCount(cell.execution_count);
    }
    if (!this.seen) this.#number();
  }

  #place(view, after) {
    this.cells.splice(this.cells.indexOf(view), 1);
    const before = after ? this.cells.findIndex((each) => each.id === after) : -1;
    this.cells.splice(before + 1, 0, view);
    const next = this.cells[before + 2]?.element || null;
    const there = view.element;
    // Moving an element takes the focus from it, and its frames would be loaded anew.
    if (there.parentElement !== this.list || there.nextElementSibling !== next) this.list.insertBefore(there, next);
  }

  #cellRemoved(id) {
    const view = this.#find(id);
    if (!view) return;
    this.cells.splice(this.cells.indexOf(view), 1);
    if (this.selected === view) this.selected = null;
    view.element.remove();
    if (!this.seen) this.#number();
  }

  #number() {
    this.cells.forEach((cell, index) => cell.numbered(index + 1));
  }

  #executionChanged({ execution_id: id, cell_id: cellId, event }) {
    const view = this.#find(cellId);
    const shown = view?.shown === id;
    if (event.accepted) {
      if (this.asked.has(id)) this.#follow(id);
      if (!this.#ended(event.accepted)) this.#runs(view, id, word(event.accepted.state, "EXECUTION_STATE_") === "queued" ? "queued" : "running");
    } else if (event.queued || event.waiting) {
      this.#runs(view, id, waits(event));
    } else if (event.progress) {
      this.progress.textContent = event.progress.message || "";
    } else if (event.started) {
      if (view && !shown) { view.shown = id; view.outputs.reset(id, []); }
      view?.showCount(event.started.execution_count || "*");
      this.#runs(view, id, "running");
      this.progress.textContent = "";
    } else if (event.finished) {
      this.#finished(view, id, event.finished);
    } else if (event.input_requested) {
      this.#asks(view, id, event.input_requested);
    } else if (event.call_ended) {
      document.querySelector(`[data-call="${CSS.escape(event.call_ended.call_id)}"]`)?.remove();
    } else if (event.warning) {
      say(event.warning.message);
    } else if (shown) {
      if (event.output) view.outputs.add(event.output);
      else if (event.clear_output) view.outputs.clearOutput(Boolean(event.clear_output.wait));
      else if (event.display_updated) view.outputs.update(event.display_updated.display_id, event.display_updated.data || {}, event.display_updated.metadata_json);
    }
  }

  #ended(execution) {
    return word(execution.state, "EXECUTION_STATE_") === "ended";
  }

  #runs(view, id, state) {
    this.executions.set(id, state);
    if (!view) return;
    view.element.classList.toggle("running", state === "running");
    view.element.classList.toggle("waiting", state !== "running");
    view.say(state);
  }

  #finished(view, id, { end, end_reason: reason, end_message: message, execution_count: count, usage }) {
    this.executions.delete(id);
    this.following.get(id)?.();
    this.following.delete(id);
    this.#forget(id);
    const how = word(end, "EXECUTION_END_");
    const took = usage?.wall_s ? ` in ${span(usage.wall_s)}` : "";
    if (view) {
      view.element.classList.remove("running", "waiting");
      for (const question of view.element.querySelectorAll("[data-call]")) question.remove();
      view.say(`${how.replace("_", " ")}${took}${message || reason ? `: ${message || reason}` : ""}`);
      if (view.shown === id) view.showCount(count);
      say(`Cell ${view.number} ${how.replace("_", " ")}${took}`, how !== "succeeded");
    }
    if (!this.history.hidden) this.loadHistory();
  }

  // input(): answered by the page that ran the cell, which says so by reading the execution's own stream.

  #follow(id) {
    if (this.following.has(id) || this.following.size >= MOST_FOLLOWED) return;
    const address = path("follow", { tenant: this.tenant, notebook: this.id, execution: id, session: SESSION });
    this.following.set(id, listen(address, (event) => {
      if (event.finished) { this.following.get(id)?.(); this.following.delete(id); }
    }, () => {}, { always: true }));
  }

  #forget(id) {
    this.asked.delete(id);
    sessionStorage.setItem("asked", JSON.stringify([...this.asked].slice(-50)));
    for (const next of this.asked) this.executions.has(next) && this.#follow(next);
  }

  #asks(view, id, { call_id: callId, prompt = "", password = false }) {
    if (!view || !this.asked.has(id)) return;
    const field = h("input", { type: password ? "password" : "text", autocomplete: "off", id: `call-${callId}` });
    const form = h("form", { class: "bar question", "data-call": callId, onsubmit: async (event) => {
      event.preventDefault();
      const answer = { notebook_id: this.id, execution_id: id, call_id: callId, request_id: newId(), text: field.value };
      if (await this.#try("Executions.Answer", answer)) form.remove();
    } }, h("label", { for: field.id }, prompt || "The cell asks for a line"), field, h("button", {}, "Answer"));
    view.element.append(form);
    field.focus();
    say(`Cell ${view.number} asks: ${prompt}`);
  }

  // What may be done

  async run(view, goOn = false) {
    if (view.type !== "code") {
      if (await this.save(view)) { view.leave(); if (goOn) this.#next(view); }
      return;
    }
    if (!(await this.save(view))) return;
    view.say("sent");
    const order = { notebook_id: this.id, request_id: newId(), session_id: SESSION, cell_id: view.id, answers_input: true };
    if (goOn) this.#next(view);
    const accepted = await this.#try("Executions.Enqueue", order, view);
    if (!accepted) return;
    this.asked.add(accepted.execution_id);
    sessionStorage.setItem("asked", JSON.stringify([...this.asked].slice(-50)));
    if (!this.#ended(accepted)) this.#follow(accepted.execution_id);
  }

  async #next(view) {
    const next = this.cells[this.cells.indexOf(view) + 1];
    if (next) { if (next.type === "markdown") next.element.focus(); else next.edit(); }
    else await this.addBeside(view, 1, true);
  }

  async save(view) {
    if (!view.dirty) return true;
    const source = view.input.value;
    const message = { notebook_id: this.id, cell_id: view.id, source, if_version: view.version, request_id: newId() };
    const saved = await this.#try("Notebooks.SetSource", message, view);
    if (!saved) return false;
    view.source = saved.source || "";
    view.version = saved.version || "";
    return true;
  }

  async addBeside(view, where, edit = true) {
    const index = view ? this.cells.indexOf(view) + (where > 0 ? 1 : 0) : 0;
    const id = `cell-${newId()}`;
    if (!(await this.#try("Notebooks.CreateCell", { notebook_id: this.id, cell_id: id, cell_type: "code", index, request_id: newId() }))) return;
    const made = await this.#there(id);
    if (edit) made?.edit();
  }

  async remove(view) {
    if (view.source && !confirm(`Delete cell ${view.number} and what it shows?`)) return;
    const next = this.cells[this.cells.indexOf(view) + 1] || this.cells[this.cells.indexOf(view) - 1];
    if (await this.#try("Notebooks.DeleteCell", { notebook_id: this.id, cell_id: view.id, request_id: newId() }, view)) next?.element.focus();
  }

  async move(view, by) {
    const from = this.cells.indexOf(view);
    const to = from + by;
    if (to < 0 || to >= this.cells.length) return;
    const after = by < 0 ? this.cells[to - 1]?.id : this.cells[to].id;
    await this.#try("Notebooks.MoveCell", { notebook_id: this.id, cell_id: view.id, after_cell_id: after || "", request_id: newId() }, view);
  }

  async setType(view, type) {
    await this.save(view);
    await this.#try("Notebooks.SetCellType", { notebook_id: this.id, cell_id: view.id, cell_type: type, request_id: newId() }, view);
  }

  async interrupt() {
    say("Interrupting");
    await this.#try("Kernels.Interrupt", { notebook_id: this.id, request_id: newId(), session_id: SESSION });
  }

  async restart() {
    if (!confirm("Restart the kernel? What runs is lost, and everything that its cells have defined.")) return;
    if (await this.#try("Kernels.Restart", { notebook_id: this.id, request_id: newId(), session_id: SESSION })) say("The kernel was restarted");
  }

  toggleHistory() {
    this.history.hidden = !this.history.hidden;
    this.historyButton.setAttribute("aria-expanded", String(!this.history.hidden));
    if (!this.history.hidden) this.loadHistory();
  }

  async loadHistory() {
    const found = await this.#try("Executions.List", { notebook_id: this.id, limit: 50 });
    if (!found) return;
    const row = (each) => {
      const cell = this.#find(each.cell_id);
      const how = word(each.end || each.state, /EXECUTION_(END|STATE)_/).replace("_", " ");
      const took = each.started_at && each.ended_at ? span(each.ended_at - each.started_at) : "";
      return h("tr", {},
        h("td", { "data-label": "Cell" }, cell ? h("button", { type: "button", class: "small", onclick: () => cell.element.focus() }, `Cell ${cell.number}`) : "deleted"),
        h("td", { "data-label": "Count" }, each.execution_count > 0 ? String(each.execution_count) : ""),
        h("td", { "data-label": "End" }, h("span", { class: `badge is-${how.replace(" ", "-")}` }, how)),
        h("td", { "data-label": "Reason" }, each.end_message || each.end_reason || ""),
        h("td", { "data-label": "Accepted" }, age(each.accepted_at)),
        h("td", { "data-label": "Took" }, took),
        h("td", { "data-label": "Source" }, h("code", {}, (each.source || "").split("\n")[0].slice(0, 80))));
    };
    const names = ["Cell", "Count", "End", "Reason", "Accepted", "Took", "Source"];
    this.history.replaceChildren(h("h2", { id: "history-title" }, "The last executions"),
      h("table", { class: "rows" }, h("thead", {}, h("tr", {}, names.map((name) => h("th", { scope: "col" }, name)))),
        h("tbody", {}, (found.executions || []).map(row))));
  }

  select(view) {
    if (this.selected !== view) this.selected?.element.classList.remove("selected");
    this.selected = view;
    view.element.classList.add("selected");
  }

  // Where somebody is, so that a page that is loaded again is there again.
  place() {
    return { top: scrollY, cell: this.selected?.id || "" };
  }

  async #try(method, message, view = null) {
    try {
      return await call(this.tenant, method, message);
    } catch (refused) {
      say(refused.message, true);
      if (refused.reason === "CELL_CHANGED" && view) {
        // Who does it again has seen that somebody else was there.
        const found = await call(this.tenant, "Notebooks.GetCell", { notebook_id: this.id, cell_id: view.id }).catch(() => null);
        if (found) view.version = found.version;
        view.say("changed elsewhere meanwhile; do it again to write your text over it");
      } else view?.say("refused");
      return null;
    }
  }

  #there(id) {
    return new Promise((resolve) => {
      let turns = 0;
      const look = () => {
        const view = this.#find(id);
        if (view || (turns += 1) > 200) resolve(view);
        else setTimeout(look, 25);
      };
      look();
    });
  }

  #find(id) {
    return this.cells.find((cell) => cell.id === id);
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select, dialog")) return;
    const view = this.selected;
    const at = view ? this.cells.indexOf(view) : -1;
    const keys = {
      ArrowUp: () => this.cells[Math.max(0, at - 1)]?.element.focus(),
      ArrowDown: () => this.cells[Math.min(this.cells.length - 1, at + 1)]?.element.focus(),
      Enter: () => view?.edit(),
      a: () => this.addBeside(view, -1),
      b: () => this.addBeside(view || this.cells.at(-1), 1),
      m: () => view && this.setType(view, "markdown"),
      y: () => view && this.setType(view, "code"),
      i: () => this.interrupt(),
      h: () => this.toggleHistory(),
    };
    // Buttons and what can be scrolled keep their own keys.
    if (event.target.closest("button, a, summary, pre, .wide") && !["a", "b", "m", "y", "i", "h"].includes(event.key)) return;
    if (!keys[event.key]) return;
    event.preventDefault();
    if (event.key === "Enter" && event.shiftKey) { if (view) this.run(view, true); } else keys[event.key]();
  }
}

function waits({ queued, waiting }) {
  if (queued) return queued.position > 0 ? `queued, ${queued.position} before it` : "queued";
  const place = waiting.position > 0 ? `, ${waiting.position} before it` : "";
  const eta = waiting.eta_s ? `, about ${span(waiting.eta_s)}` : "";
  return `waiting: ${waiting.reason}${place}${eta}`;
}
