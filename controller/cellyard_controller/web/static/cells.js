// One cell: its text, which may be edited by others meanwhile, and what it shows.

import { h } from "./dom.js";
import { showMarkdown } from "./markdown.js";
import { Outputs } from "./outputs.js";

export class CellView {
  // `notebook` has the actions: save, run, remove, move, select.
  constructor(notebook, id) {
    this.notebook = notebook;
    this.id = id;
    this.type = "";
    this.source = "";
    this.version = "";
    this.outputs = new Outputs(notebook, "Output");
    this.count = h("span", { class: "count", "aria-hidden": "true" });
    this.state = h("span", { class: "state" });
    this.input = h("textarea", { spellcheck: "false", autocapitalize: "off", autocomplete: "off", rows: 1, class: "source",
      oninput: () => this.fit(), onblur: () => this.leave(), onkeydown: (event) => this.#key(event) });
    this.rendered = h("div", { class: "markdown", hidden: true, ondblclick: () => this.edit() });
    this.runButton = h("button", { type: "button", onclick: () => notebook.run(this) }, "Run");
    this.editButton = h("button", { type: "button", hidden: true, onclick: () => this.edit() }, "Edit");
    const actions = h("div", { class: "actions" }, this.runButton, this.editButton,
      h("button", { type: "button", class: "small", onclick: () => notebook.move(this, -1) }, "Up"),
      h("button", { type: "button", class: "small", onclick: () => notebook.move(this, 1) }, "Down"),
      h("button", { type: "button", class: "small", onclick: () => notebook.remove(this) }, "Delete"), this.state);
    this.element = h("article", { class: "cell", tabindex: "-1", "data-cell": id, onfocus: () => notebook.select(this) },
      h("div", { class: "input" }, this.count, h("div", { class: "body" }, this.rendered, this.input, actions)), this.outputs.element);
    this.element.addEventListener("focusin", () => notebook.select(this));
  }

  get dirty() {
    return this.input.value !== this.source;
  }

  // As it stands at the controller. A text that is being edited here stays.
  changed(cell) {
    const type = cell.cell_type || "code";
    const source = cell.source || "";
    const mine = this.dirty && this.version !== "";
    if (!mine) this.#write(source);
    else if (source !== this.source && source !== this.input.value) this.say("changed elsewhere meanwhile; running or leaving it keeps your text");
    this.source = source;
    this.version = cell.version || "";
    const first = this.type === "";
    if (type !== this.type) {
      this.type = type;
      this.element.dataset.type = type;
      this.outputs.element.hidden = type !== "code";
      this.editButton.hidden = type !== "markdown";
      this.input.hidden = type === "markdown";
    }
    if (type === "markdown" && (first || this.input.hidden || !this.dirty)) this.render();
    if (type !== "markdown") { this.input.hidden = false; this.rendered.hidden = true; }
    this.fit();
  }

  showCount(count) {
    this.count.textContent = this.type === "code" ? `[${count || " "}]` : "";
  }

  say(text) {
    this.state.textContent = text;
  }

  numbered(number) {
    const name = { code: "Code", markdown: "Markdown", raw: "Raw" }[this.type] || "";
    this.element.setAttribute("aria-label", `${name} cell ${number}`);
    this.input.setAttribute("aria-label", `Text of cell ${number}`);
    this.outputs.element.setAttribute("aria-label", `Output of cell ${number}`);
    for (const button of this.element.querySelectorAll(".actions button")) button.setAttribute("aria-label", `${button.textContent} cell ${number}`);
    this.number = number;
  }

  render() {
    showMarkdown(this.rendered, this.input.value || "(empty)");
    this.rendered.hidden = false;
    this.input.hidden = document.activeElement !== this.input;
    if (!this.input.hidden) this.rendered.hidden = true;
  }

  edit() {
    if (this.type === "markdown") { this.rendered.hidden = true; this.input.hidden = false; this.fit(); }
    this.input.focus();
  }

  leave() {
    if (this.dirty) this.notebook.save(this);
    if (this.type === "markdown") { this.input.hidden = true; this.rendered.hidden = false; showMarkdown(this.rendered, this.input.value || "(empty)"); }
  }

  fit() {
    this.input.rows = Math.min(40, Math.max(1, this.input.value.split("\n").length));
  }

  #write(source) {
    if (this.input.value === source) return;
    const { selectionStart, selectionEnd } = this.input;
    this.input.value = source;
    if (document.activeElement === this.input) this.input.setSelectionRange(selectionStart, selectionEnd);
  }

  #key(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey || event.shiftKey)) {
      event.preventDefault();
      this.notebook.run(this, event.shiftKey);
    } else if (event.key === "Escape") {
      event.preventDefault();
      event.stopPropagation();
      this.element.focus();
    }
  }
}
