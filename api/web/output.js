// What a command prints, as it comes. Only the rows that can be seen are in the document, however many there are.
import { html, useEffect, useLayoutEffect, useMemo, useReducer, useRef, useState } from './vendor/preact.js';
import { classes, colours, spans, stripped } from './ansi.js';
import { exact, size } from './words.js';

const ROW_PX = 20;
const BEYOND = 20; // rows above and below what is seen
const MATCHES = 10000;

// Remembered with the line: asking all of them anew for each piece of output would be felt.
function shownLength(line) {
  if (line.measured !== line.text) {
    line.measured = line.text;
    line.shown = stripped(line.text).length;
  }
  return line.shown;
}

// One row for each line or, wrapped, for each part of it that has room: [line, from, to].
function rowsOf(lines, columns, stream) {
  const shown = stream === 'both' ? lines : lines.filter((one) => one.stream === stream);
  if (!columns) return { count: shown.length, at: (row) => [shown[row], 0], rowOf: (line) => shown.indexOf(line) };
  const rows = [];
  for (const line of shown) {
    const length = shownLength(line);
    for (let from = 0; from === 0 || from < length; from += columns) rows.push([line, from]);
  }
  return { count: rows.length, at: (row) => rows[row], rowOf: (line) => rows.findIndex((one) => one[0] === line) };
}

export function Output({ id, lines, version, final, initialLine, onLine }) {
  const [follow, setFollow] = useState(!initialLine);
  const [wrap, setWrap] = useState(true);
  const [times, setTimes] = useState(false);
  const [stream, setStream] = useState('both');
  const [search, setSearch] = useState('');
  const [match, setMatch] = useState(0);
  const [marked, setMarked] = useState(initialLine);
  const [view, setView] = useState({ top: 0, height: 480, columns: 100 });
  const [, redraw] = useReducer((count) => count + 1, 0);
  const box = useRef(null);
  const ruler = useRef(null);
  const field = useRef(null);
  const ourScroll = useRef(0);

  const columns = wrap ? Math.max(20, view.columns - (times ? 14 : 0)) : 0;
  const rows = useMemo(() => rowsOf(lines.lines, columns, stream), [version, columns, stream]);
  const found = useMemo(() => {
    if (!search) return [];
    const text = search.toLowerCase();
    const hits = [];
    for (const line of lines.lines) {
      if (stream !== 'both' && line.stream !== stream) continue;
      if (stripped(line.text).toLowerCase().includes(text) && hits.push(line) >= MATCHES) break;
    }
    return hits;
  }, [search, stream, search ? version : 0]);

  useEffect(() => {
    const measured = new ResizeObserver(() => {
      if (!box.current) return;
      const character = ruler.current.getBoundingClientRect().width / 50;
      setView((old) => ({ ...old, height: box.current.clientHeight, columns: Math.floor((box.current.clientWidth - 100) / character) }));
    });
    measured.observe(box.current);
    return () => measured.disconnect();
  }, []);

  const scrollTo = (top) => {
    if (!box.current) return; // the view has gone meanwhile
    ourScroll.current = Math.max(0, top);
    box.current.scrollTop = top;
    setView((old) => ({ ...old, top: box.current.scrollTop }));
  };
  const show = (line) => {
    const row = rows.rowOf(line);
    if (row >= 0) { setFollow(false); scrollTo(row * ROW_PX - view.height / 3); }
  };
  useLayoutEffect(() => { if (follow) scrollTo(rows.count * ROW_PX); }, [version, follow, rows.count, view.height]);
  // A link to a line waits until the line is there.
  const sought = useRef(initialLine);
  useEffect(() => {
    if (!sought.current || lines.number < sought.current) return;
    const line = lines.lines.find((one) => one.number === sought.current);
    sought.current = null;
    if (line) show(line);
  }, [version]);
  useEffect(() => { if (found.length) show(found[Math.min(match, found.length - 1)]); }, [search, match]);
  useEffect(() => {
    const pressed = (event) => {
      if (event.target.closest('input, textarea, select, dialog') || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === '/') { event.preventDefault(); field.current.focus(); }
      else if (event.key === 'f') setFollow((on) => !on);
      else if (event.key === 'w') setWrap((on) => !on);
      else if (event.key === 't') setTimes((on) => !on);
    };
    addEventListener('keydown', pressed);
    return () => removeEventListener('keydown', pressed);
  }, []);

  const scrolled = () => {
    if (!box.current) return;
    const { scrollTop, scrollHeight, clientHeight } = box.current;
    // Who scrolls up wants to read there; who comes back to the end wants to follow.
    if (follow && scrollTop < ourScroll.current - ROW_PX * 2 && scrollTop + clientHeight < scrollHeight - ROW_PX * 2) setFollow(false);
    setView((old) => ({ ...old, top: scrollTop }));
  };
  const step = (by) => found.length && setMatch((match + by + found.length) % found.length);
  const searched = (event) => {
    if (event.key === 'Enter') { event.preventDefault(); step(event.shiftKey ? -1 : 1); }
    else if (event.key === 'Escape') { setSearch(''); event.target.blur(); }
  };
  const mark = (line) => { setMarked(line.number); onLine(line.number); redraw(); };

  const first = Math.max(0, Math.floor(view.top / ROW_PX) - BEYOND);
  const last = Math.min(rows.count, Math.ceil((view.top + view.height) / ROW_PX) + BEYOND);
  const visible = [];
  for (let row = first; row < last; row += 1) visible.push(rows.at(row));
  const current = found[Math.min(match, found.length - 1)];

  const toggle = (on, set, word, key) => html`<button type="button" class="toggle" aria-pressed=${on} title="${word} (${key})" onClick=${() => set(!on)}>${word}</button>`;
  return html`<section class="output" aria-label="Output">
    <div class="tools">
      <select aria-label="Stream" value=${stream} onChange=${(event) => setStream(event.target.value)}>
        <option value="both">both streams</option><option value="stdout">stdout</option><option value="stderr">stderr</option>
      </select>
      <span class="search"><input type="search" ref=${field} placeholder="Search  ( / )" aria-label="Search in the output" value=${search}
        onInput=${(event) => { setSearch(event.target.value); setMatch(0); }} onKeyDown=${searched} />
        ${search && html`<span class="muted small" role="status">${found.length ? `${Math.min(match, found.length - 1) + 1} of ${found.length}${found.length >= MATCHES ? '+' : ''}` : 'nothing'}</span>
        <button type="button" class="quiet" aria-label="Previous match" onClick=${() => step(-1)}>↑</button>
        <button type="button" class="quiet" aria-label="Next match" onClick=${() => step(1)}>↓</button>`}</span>
      <span class="grow"></span>
      ${toggle(follow, setFollow, final ? 'End' : 'Follow', 'f')}
      ${toggle(wrap, setWrap, 'Wrap', 'w')}
      ${toggle(times, setTimes, 'Times', 't')}
      <a class="button" href="/v1/commands/${id}/output${stream === 'both' ? '' : `?stream=${stream}`}" download="command-${id}.txt">Download</a>
    </div>
    ${lines.dropped > 0 && html`<p class="notice">${lines.dropped.toLocaleString('en')} older lines are not kept in this page; the download has what Bashd kept.</p>`}
    <div class="lines ${wrap ? 'wrapped' : ''}" ref=${box} onScroll=${scrolled} tabindex="0" role="log" aria-live="off" aria-label="Lines of the output">
      <span class="ruler" ref=${ruler} aria-hidden="true">${'0'.repeat(50)}</span>
      ${rows.count === 0 ? html`<p class="muted nothing">${final ? 'It printed nothing.' : 'Nothing printed yet.'}</p>`
        : html`<div class="all" style=${{ height: `${rows.count * ROW_PX}px` }}><div class="seen" style=${{ transform: `translateY(${first * ROW_PX}px)` }}>
        ${visible.map(([line, from]) => html`<${Line} key=${`${line.number}.${from}`} line=${line} from=${from} columns=${columns} times=${times} length=${line.text.length}
          search=${search} current=${line === current} marked=${line.number === marked} onMark=${mark} />`)}
      </div></div>`}
    </div>
  </section>`;
}

function Line({ line, from, columns, times, search, current, marked, onMark }) {
  if (line.gap) {
    const [begin, end] = line.gap;
    return html`<div class="line gap">${size(end - begin)} of ${line.stream} were not kept: bytes ${begin.toLocaleString('en')} to ${end.toLocaleString('en')}</div>`;
  }
  let parts = spans(line.text, line.style).spans;
  if (columns) parts = cut(parts, from, from + columns);
  return html`<div class="line ${line.stream} ${marked ? 'marked' : ''} ${current ? 'current' : ''}">
    <a class="place" tabindex="-1" href="#" aria-label="Link to line ${line.number}" onClick=${(event) => { event.preventDefault(); onMark(line); }}>${from === 0 ? line.number : ''}</a>
    ${times && html`<time>${from === 0 ? exact(line.time) : ''}</time>`}
    <span class="text">${from === 0 && line.stream === 'stderr' && html`<span class="hidden">stderr: </span>`}${parts.map((part) => html`<span class=${classes(part.style)} style=${colours(part.style)}>${highlighted(part.text, search)}</span>`)}</span>
  </div>`;
}

function cut(parts, from, to) {
  const some = [];
  let at = 0;
  for (const part of parts) {
    const text = part.text.slice(Math.max(0, from - at), Math.max(0, to - at));
    if (text) some.push({ text, style: part.style });
    at += part.text.length;
  }
  return some;
}

function highlighted(text, search) {
  if (!search) return text;
  const found = [];
  const small = text.toLowerCase();
  const word = search.toLowerCase();
  let from = 0;
  for (let at = small.indexOf(word); at >= 0; at = small.indexOf(word, from)) {
    found.push(text.slice(from, at), html`<mark>${text.slice(at, at + word.length)}</mark>`);
    from = at + word.length;
  }
  return [...found, text.slice(from)];
}
