// Markdown, rendered by the controller without any HTML of its own, and copied here element by element: what is not
// named below does not become part of the page, whatever stands in the text.

import { renderMarkdown } from "./api.js";
import { h } from "./dom.js";

const PLAIN = new Set(["p", "em", "strong", "s", "code", "pre", "blockquote", "ul", "ol", "li", "hr", "br", "table",
  "thead", "tbody", "tr", "th", "td", "h1", "h2", "h3", "h4", "h5", "h6"]);
const LINK = /^(https?:|mailto:)/i;
const IMAGE = /^data:image\/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]+$/;
const rendered = new Map();

export async function showMarkdown(element, text) {
  element.textContent = text;
  element.dataset.text = text;
  try {
    if (!rendered.has(text)) {
      if (rendered.size > 200) rendered.clear();
      rendered.set(text, renderMarkdown(text));
    }
    const html = await rendered.get(text);
    if (element.dataset.text !== text) return;
    element.replaceChildren(copy(new DOMParser().parseFromString(html, "text/html").body));
  } catch {
    rendered.delete(text); // it stays what it is: text
  }
  delete element.dataset.text;
}

function copy(from) {
  const to = document.createDocumentFragment();
  for (const node of from.childNodes) {
    if (node.nodeType === Node.TEXT_NODE) to.append(node.data);
    else if (node.nodeType === Node.ELEMENT_NODE) to.append(element(node));
  }
  return to;
}

function element(node) {
  const tag = node.localName;
  const inside = copy(node);
  if (tag === "a" && LINK.test(node.getAttribute("href") || "")) {
    return h("a", { href: node.getAttribute("href"), target: "_blank", rel: "noopener noreferrer" }, inside);
  }
  if (tag === "img") {
    const source = node.getAttribute("src") || "";
    const alt = node.getAttribute("alt") || "";
    return IMAGE.test(source) ? h("img", { src: source, alt }) : h("span", {}, `[image: ${alt}]`);
  }
  if (!PLAIN.has(tag)) return inside;
  const made = document.createElement(tag);
  made.append(inside);
  return tag === "table" ? h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Table" }, made) : made;
}
