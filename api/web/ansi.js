// What steers a terminal, as far as it is colour: text with SGR sequences becomes spans. No HTML is ever made of it.

const SEQUENCE = /\x1b(?:\[([0-9;:?<=>]*)[ -/]*([@-~])|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[()][A-Z0-9]|[@-Z\\^_=>78])/g;
const PLAIN = Object.freeze({});

// The spans of one line, and how the next begins. A span is {text, style}.
export function spans(text, style = PLAIN) {
  if (!text.includes('\x1b')) return { spans: text ? [{ text, style }] : [], style };
  const found = [];
  let from = 0;
  for (const match of text.matchAll(SEQUENCE)) {
    if (match.index > from) found.push({ text: text.slice(from, match.index), style });
    from = match.index + match[0].length;
    if (match[2] === 'm') style = changed(style, match[1]);
  }
  if (from < text.length) found.push({ text: text.slice(from).replaceAll('\x1b', '␛'), style });
  return { spans: found, style };
}

function changed(style, codes) {
  const next = { ...style };
  const list = codes.split(/[;:]/).map(Number);
  for (let at = 0; at < list.length; at += 1) {
    const code = list[at];
    if (code === 0) for (const key of Object.keys(next)) delete next[key];
    else if (code === 1) next.bold = true;
    else if (code === 2) next.dim = true;
    else if (code === 3) next.italic = true;
    else if (code === 4) next.underline = true;
    else if (code === 7) next.inverse = true;
    else if (code === 9) next.strike = true;
    else if (code === 22) { delete next.bold; delete next.dim; }
    else if (code === 23) delete next.italic;
    else if (code === 24) delete next.underline;
    else if (code === 27) delete next.inverse;
    else if (code === 29) delete next.strike;
    else if (code >= 30 && code <= 37) next.fg = code - 30;
    else if (code === 39) delete next.fg;
    else if (code >= 40 && code <= 47) next.bg = code - 40;
    else if (code === 49) delete next.bg;
    else if (code >= 90 && code <= 97) next.fg = code - 82;
    else if (code >= 100 && code <= 107) next.bg = code - 92;
    else if (code === 38 || code === 48) {
      const key = code === 38 ? 'fg' : 'bg';
      if (list[at + 1] === 5) { next[key] = of256(list[at + 2]); at += 2; }
      else if (list[at + 1] === 2) { next[key] = `rgb(${list.slice(at + 2, at + 5).map((one) => one & 255)})`; at += 4; }
    }
  }
  return Object.keys(next).length ? next : PLAIN;
}

// A number of the palette of 16, which the style sheet knows, or a colour.
function of256(number) {
  if (!(number >= 0 && number < 256)) return 0;
  if (number < 16) return number;
  if (number >= 232) return `rgb(${Array(3).fill(8 + (number - 232) * 10)})`;
  const level = (one) => (one ? 55 + one * 40 : 0);
  const n = number - 16;
  return `rgb(${level(Math.floor(n / 36))},${level(Math.floor(n / 6) % 6)},${level(n % 6)})`;
}

export function classes(style) {
  const names = ['bold', 'dim', 'italic', 'underline', 'strike', 'inverse'].filter((one) => style[one]);
  if (typeof style.fg === 'number') names.push(`fg${style.fg}`);
  if (typeof style.bg === 'number') names.push(`bg${style.bg}`);
  return names.join(' ');
}

export function colours(style) {
  const given = {};
  if (typeof style.fg === 'string') given.color = style.fg;
  if (typeof style.bg === 'string') given.backgroundColor = style.bg;
  return given;
}

export const stripped = (text) => (text.includes('\x1b') ? text.replace(SEQUENCE, '') : text);
