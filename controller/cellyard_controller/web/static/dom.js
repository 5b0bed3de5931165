// Elements, and how things are written. Text is always text here: nothing is ever parsed as HTML.

export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

export const byId = (id) => document.getElementById(id);

// Told to whoever cannot see it, and shown in a line at the bottom.
export function say(text, failed = false) {
  const status = byId("status");
  status.textContent = text;
  status.classList.toggle("failed", failed);
}

export function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) { bytes /= 1024; unit += 1; }
  return `${bytes >= 10 || Number.isInteger(bytes) ? Math.round(bytes) : bytes.toFixed(1)} ${units[unit]}`;
}

export function span(seconds) {
  if (seconds < 0.995) return `${Math.max(0, Math.round(seconds * 1000))} ms`;
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
}

// How long ago something was: kept up to date by `refreshAges`, without anything being sent.
export function age(since) {
  return since ? h("time", { "data-since": since, title: new Date(since * 1000).toLocaleString() }, ageText(since)) : "";
}

export const refreshAges = () => {
  for (const each of document.querySelectorAll("time[data-since]")) {
    const text = ageText(Number(each.dataset.since));
    if (each.textContent !== text) each.textContent = text;
  }
};

const ageText = (since) => {
  const seconds = Math.max(0, Math.round(Date.now() / 1000 - since));
  return seconds < 60 ? `${seconds} s` : span(seconds);
};

export const newId = () => [...crypto.getRandomValues(new Uint8Array(12))].map((b) => b.toString(16).padStart(2, "0")).join("");

// An enum's value without its prefix: KERNEL_STATE_IDLE -> idle.
export const word = (value, prefix) => (value || "").replace(prefix, "").toLowerCase();
