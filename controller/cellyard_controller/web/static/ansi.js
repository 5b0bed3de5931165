// Text of terminals: colours as elements, carriage returns and backspaces applied. Everything else of it is left out.

const ESCAPE = /\x1b(?:\[([0-9;:]*)([A-Za-z])|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])/g;
const CONTROLS = /[\x00-\x07\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]/g;

export function applyControls(text) {
  if (!/[\r\b]/.test(text)) return text;
  return text.split("\n").map((line) => (/[\r\b]/.test(line) ? applyToLine(line) : line)).join("\n");
}

function applyToLine(line) {
  const shown = [];
  let at = 0;
  for (const character of line.replace(/\r+$/, "")) {
    if (character === "\r") at = 0;
    else if (character === "\b") { if (at > 0) { at -= 1; shown.splice(at, 1); } }
    else { shown[at] = character; at += 1; }
  }
  return shown.join("");
}

export function ansi(text) {
  const fragment = document.createDocumentFragment();
  const style = { fg: null, bg: null, bold: false, italic: false, underline: false };
  let from = 0;
  ESCAPE.lastIndex = 0;
  for (let found = ESCAPE.exec(text); found; found = ESCAPE.exec(text)) {
    add(fragment, text.slice(from, found.index), style);
    from = ESCAPE.lastIndex;
    if (found[2] === "m") change(style, found[1].split(/[;:]/).map(Number));
  }
  add(fragment, text.slice(from).replace(/\x1b/g, ""), style);
  return fragment;
}

function add(fragment, text, style) {
  text = text.replace(CONTROLS, "");
  if (!text) return;
  if (style.fg == null && style.bg == null && !style.bold && !style.italic && !style.underline) {
    fragment.append(text);
    return;
  }
  const span = document.createElement("span");
  span.textContent = text;
  for (const name of ["bold", "italic", "underline"]) if (style[name]) span.classList.add(name);
  paint(span, "fg", style.fg);
  paint(span, "bg", style.bg);
  fragment.append(span);
}

function paint(span, which, colour) {
  if (colour == null) return;
  if (typeof colour === "number" && colour < 16) span.classList.add(`${which}-${colour}`);
  else span.style[which === "fg" ? "color" : "backgroundColor"] = rgb(colour);
}

function rgb(colour) {
  if (Array.isArray(colour)) return `rgb(${colour.join(",")})`;
  if (colour >= 232) { const grey = (colour - 232) * 10 + 8; return `rgb(${grey},${grey},${grey})`; }
  const part = (n) => (n ? n * 40 + 55 : 0);
  const n = colour - 16;
  return `rgb(${part(Math.floor(n / 36))},${part(Math.floor(n / 6) % 6)},${part(n % 6)})`;
}

function change(style, codes) {
  for (let i = 0; i < codes.length; i += 1) {
    const code = codes[i];
    if (code === 0) Object.assign(style, { fg: null, bg: null, bold: false, italic: false, underline: false });
    else if (code === 1) style.bold = true;
    else if (code === 3) style.italic = true;
    else if (code === 4) style.underline = true;
    else if (code === 22) style.bold = false;
    else if (code === 23) style.italic = false;
    else if (code === 24) style.underline = false;
    else if (code >= 30 && code <= 37) style.fg = code - 30;
    else if (code >= 90 && code <= 97) style.fg = code - 82;
    else if (code === 39) style.fg = null;
    else if (code >= 40 && code <= 47) style.bg = code - 40;
    else if (code >= 100 && code <= 107) style.bg = code - 92;
    else if (code === 49) style.bg = null;
    else if (code === 38 || code === 48) {
      const which = code === 38 ? "fg" : "bg";
      if (codes[i + 1] === 5) { style[which] = codes[i + 2] & 255; i += 2; }
      else if (codes[i + 1] === 2) { style[which] = codes.slice(i + 2, i + 5).map((n) => n & 255); i += 4; }
    }
  }
}
