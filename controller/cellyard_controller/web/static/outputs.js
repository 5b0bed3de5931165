// What a cell shows: built from the events of its execution, as JupyterLab does it.

import { path } from "./api.js";
import { ansi, applyControls } from "./ansi.js";
import { h, size } from "./dom.js";
import { showMarkdown } from "./markdown.js";

const MOST_OUTPUTS = 500;
const MOST_FETCHED = 1024 * 1024; // bytes of a chunk that is read at once, though it does not come along
const MOST_TEXT = 200_000; // characters of one stream that are shown: the last ones
const IMAGES = ["image/png", "image/jpeg", "image/gif", "image/webp"];
const BASE64 = /^[A-Za-z0-9+/=\s]*$/;

export class Outputs {
  constructor(notebook, label) {
    this.notebook = notebook; // { tenant, id }
    this.element = h("div", { class: "outputs", role: "group", "aria-label": label });
    this.executionId = "";
    this.clear();
  }

  // All of it anew.
  reset(executionId, outputs) {
    this.executionId = executionId;
    this.clear();
    for (const output of outputs || []) this.add(output);
  }

  clear() {
    this.items = [];
    this.clearWaits = false;
    this.leftOut = null;
    this.element.replaceChildren();
  }

  clearOutput(wait) {
    if (wait) this.clearWaits = true;
    else this.clear();
  }

  add(output) {
    if (this.clearWaits) this.clear();
    const last = this.items.at(-1);
    const stream = output.stream;
    const isText = stream && Number(stream.blob?.size || 0) <= MOST_FETCHED;
    if (isText && last?.stream === (stream.name || "stdout")) {
      this.#append(last, stream);
      return;
    }
    if (this.items.length >= MOST_OUTPUTS) {
      this.leftOut ??= this.element.appendChild(h("p", { class: "note" }));
      this.leftOut.textContent = `[the console shows ${MOST_OUTPUTS} outputs of a cell; more were made]`;
      return;
    }
    const item = isText ? new StreamItem(stream.name) : this.#item(output);
    if (isText) this.#append(item, stream);
    this.items.push(item);
    this.element.append(item.element);
  }

  update(displayId, data, metadata) {
    for (const item of this.items) {
      if (displayId && item.displayId === displayId) item.element.replaceChildren(...this.#shown(data, metadata));
    }
  }

  #append(item, { text = "", blob }) {
    if (blob) item.fetch(path("blob", { ...this.#address(), digest: blob.digest, mime: "text/plain" }));
    else item.append(text);
  }

  #item(output) {
    if (output.stream) {
      return { element: h("div", { class: `output ${output.stream.name}` }, this.#large(output.stream.blob, "text/plain")) };
    }
    if (output.error) {
      const { ename = "", evalue = "", traceback = [] } = output.error;
      const text = traceback.length ? traceback.join("\n") : `${ename}: ${evalue}`;
      return { element: h("pre", { class: "output error", tabindex: "0", "aria-label": `Error: ${ename}` }, ansi(text)) };
    }
    const shown = output.display_data || output.execute_result || {};
    const element = h("div", { class: "output" }, this.#shown(shown.data || {}, shown.metadata_json));
    return { element, displayId: shown.display_id || "" };
  }

  #shown(data, metadataJson) {
    const metadata = parsed(metadataJson);
    if (data["text/html"]) return [this.#frame(data["text/html"])];
    if (data["text/markdown"]?.text != null) {
      const element = h("div", { class: "markdown" });
      showMarkdown(element, data["text/markdown"].text);
      return [element];
    }
    for (const mime of IMAGES) if (data[mime]) return [this.#image(mime, data[mime], metadata[mime])];
    if (data["image/svg+xml"]) return [this.#image("image/svg+xml", data["image/svg+xml"], metadata["image/svg+xml"])];
    for (const mime of ["text/latex", "application/json", "text/plain", ...Object.keys(data)]) {
      const value = data[mime];
      if (value?.blob) return [this.#large(value.blob, mime)];
      if (value?.json != null) return [pre(JSON.stringify(parsed(value.json), null, 2), mime)];
      if (value && mime.startsWith("text/")) return [pre(value.text ?? "")];
    }
    return [h("p", { class: "note" }, `[${Object.keys(data).join(", ") || "nothing"}: not shown here]`)];
  }

  // Neither origin nor scripts: what is in there can reach nothing of this page, and nothing else either.
  #frame(html) {
    const source = path("frame", { ...this.#address(), execution: this.executionId, digest: html.frame });
    const frame = h("iframe", {
      src: source,
      sandbox: "allow-popups allow-popups-to-escape-sandbox",
      referrerpolicy: "no-referrer",
      loading: "lazy",
      title: "HTML output",
    });
    frame.style.height = `${Math.min(30, 2 + 1.6 * (html.lines || 2))}rem`;
    const toggle = h("button", { type: "button", class: "small", "aria-expanded": "false", onclick: () => {
      const large = frame.classList.toggle("large");
      toggle.setAttribute("aria-expanded", String(large));
      toggle.textContent = large ? "Smaller" : "Larger";
    } }, "Larger");
    return h("div", { class: "framed" }, frame, toggle);
  }

  #image(mime, value, metadata = {}) {
    let source;
    if (value.blob) source = path("blob", { ...this.#address(), digest: value.blob.digest, mime });
    else if (mime === "image/svg+xml") source = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(value.text || "")}`;
    else if (BASE64.test(value.text || "")) source = `data:${mime};base64,${value.text.replace(/\s/g, "")}`;
    else return h("p", { class: "note" }, `[${mime}: not base64]`);
    const image = h("img", { src: source, alt: `Output: ${mime}` });
    if (metadata?.width > 0) image.setAttribute("width", Math.round(metadata.width));
    return image;
  }

  #large(blob, mime) {
    const address = path("blob", { ...this.#address(), digest: blob.digest, mime });
    return h("p", { class: "note" }, h("a", { href: address, download: "" }, `Download ${size(Number(blob.size))} of ${mime}`));
  }

  #address() {
    return { tenant: this.notebook.tenant, notebook: this.notebook.id };
  }
}

class StreamItem {
  constructor(name = "stdout") {
    this.stream = name;
    this.text = "";
    this.element = h("pre", { class: `output ${name}`, tabindex: "0", "aria-label": name === "stderr" ? "Errors" : "Text" });
    this.coming = null; // chunks that are still read; what follows waits for them
  }

  append(text) {
    if (this.coming) this.coming = this.coming.then(() => this.#add(text));
    else this.#add(text);
  }

  fetch(address) {
    const read = fetch(address).then((answer) => (answer.ok ? answer.text() : Promise.reject(new Error())))
      .catch(() => "[a part of the text cannot be read any more]\n");
    this.coming = (this.coming || Promise.resolve()).then(() => read).then((text) => this.#add(text));
  }

  #add(text) {
    this.text += text;
    if (this.text.length > 2 * MOST_TEXT) {
      this.text = this.text.slice(-MOST_TEXT);
      this.cut = true;
    }
    if (this.waits) return;
    this.waits = true;
    // Many chunks come in a row; they are drawn together. A page that is hidden gets no frames, and needs none.
    requestAnimationFrame(() => { this.waits = false; this.#draw(); });
  }

  #draw() {
    const whole = applyControls(this.text);
    const cut = this.cut || whole.length > MOST_TEXT;
    const followed = this.element.scrollTop + this.element.clientHeight >= this.element.scrollHeight - 4;
    this.element.replaceChildren(ansi(cut ? `[earlier text is not shown here]\n${whole.slice(-MOST_TEXT)}` : whole));
    if (followed) this.element.scrollTop = this.element.scrollHeight;
  }
}

const pre = (text, label = "Text") => h("pre", { tabindex: "0", "aria-label": label }, ansi(text.length > MOST_TEXT
  ? `${text.slice(0, MOST_TEXT)}\n[the rest is not shown here]` : text));

function parsed(text) {
  try { return text ? JSON.parse(text) : {}; } catch { return {}; }
}
