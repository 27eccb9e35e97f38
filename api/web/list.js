// The list: the newest commands that fit the filters, alive.
import { html, useEffect, useRef, useState } from './vendor/preact.js';
import { Activity, MINUTES, Plot } from './activity.js';
import { ask } from './api.js';
import { Stream } from './live.js';
import { go, readdress } from './router.js';
import { STATUSES, Status, clock, isFinal, ran, useNow } from './words.js';

const PAGE = 50;
const MOST = 500; // rows that are kept: what is older is found by filters, or by "older"

const filtersOf = (parameters) => ({
  status: parameters.getAll('status'), label: parameters.getAll('label'),
  name: parameters.get('name') || '', q: parameters.get('q') || '',
});

function queryOf({ status, label, name, q }) {
  const query = new URLSearchParams();
  status.forEach((one) => query.append('status', one));
  label.forEach((one) => query.append('label', one));
  if (name) query.set('name', name);
  if (q) query.set('q', q);
  return query;
}

function fits(command, { status, label, name, q }) {
  return (!status.length || status.includes(command.status))
    && label.every((one) => { const at = one.indexOf(':'); return command.labels[one.slice(0, at)] === one.slice(at + 1); })
    && (!name || command.name === name)
    && (!q || command.script.toLowerCase().includes(q.toLowerCase()));
}

export function List({ parameters, onConnected, searchField }) {
  const [filters, setFilters] = useState(() => filtersOf(parameters));
  const [rows, setRows] = useState(null);
  const [next, setNext] = useState(null);
  const [searched, setSearched] = useState(null);
  const [counts, setCounts] = useState(null);
  const [trouble, setTrouble] = useState('');
  const [chosen, setChosen] = useState(-1);
  const activity = useRef(new Activity());
  const wanted = useRef(filters);
  const shown = useRef(filters); // by the address
  const now = useNow(1000);
  wanted.current = filters;

  const load = async (cursor) => {
    const query = queryOf(filters);
    query.set('limit', PAGE);
    if (cursor) query.set('cursor', cursor);
    try {
      const page = await ask(`/v1/commands?${query}`);
      if (wanted.current !== filters) return;
      page.items.forEach((one) => activity.current.note(one));
      setRows((old) => (cursor ? [...old, ...page.items.filter((one) => !old.some((other) => other.id === one.id))] : page.items));
      setNext(page.next);
      setSearched(page.searched ?? null);
      setTrouble('');
    } catch (problem) { setTrouble(problem.message); }
  };

  useEffect(() => {
    // Not at first: the address says it already, or has moved on while we were drawn.
    if (shown.current !== filters) {
      const query = queryOf(filters).toString();
      readdress(query ? `/?${query}` : '/');
      shown.current = filters;
    }
    const timer = setTimeout(load, rows === null ? 0 : 150); // while somebody types
    return () => clearTimeout(timer);
  }, [filters]);

  const count = () => ask('/v1/counts').then(setCounts, () => {});
  const loadNow = useRef(null);
  loadNow.current = load;

  useEffect(() => {
    const since = new Date(Date.now() - MINUTES * 60000).toISOString();
    const recall = () => ask(`/v1/commands?limit=1000&since=${since}`)
      .then((page) => page.items.forEach((one) => activity.current.note(one)), () => {});
    const changed = new Map();
    let timer = null;
    // Many changes a second become one picture.
    const show = () => {
      timer = null;
      const news = new Map(changed);
      changed.clear();
      count();
      setRows((old) => {
        if (old === null) return old;
        const kept = old.map((one) => news.get(one.id) || one).filter((one) => fits(one, wanted.current));
        const known = new Set(old.map((one) => one.id));
        const added = [...news.values()].filter((one) => !known.has(one.id) && fits(one, wanted.current)
          && (!old.length || one.id > old[old.length - 1].id));
        if (!added.length) return kept;
        return [...added, ...kept].sort((a, b) => b.id - a.id).slice(0, Math.max(MOST, old.length));
      });
    };
    const stream = new Stream('/v1/events', {
      reset: () => { loadNow.current(); count(); recall(); },
      status: (command) => {
        activity.current.note(command);
        changed.set(command.id, command);
        timer ??= setTimeout(show, 200);
      },
    }, onConnected);
    return () => { clearTimeout(timer); stream.close(); };
  }, []);

  useEffect(() => {
    const pressed = (event) => {
      if (event.target.closest('input, textarea, select, dialog') || event.ctrlKey || event.metaKey || event.altKey) return;
      const last = (rows || []).length - 1;
      if (event.key === 'j') setChosen((at) => Math.min(last, at + 1));
      else if (event.key === 'k') setChosen((at) => Math.max(0, at - 1));
      else if (event.key === 'Enter' && rows?.[chosen] && !event.target.closest('a, button')) go(`/commands/${rows[chosen].id}`);
    };
    addEventListener('keydown', pressed);
    return () => removeEventListener('keydown', pressed);
  }, [rows, chosen]);
  useEffect(() => { document.querySelector('tr.chosen')?.scrollIntoView({ block: 'nearest' }); }, [chosen]);

  const change = (some) => setFilters({ ...filters, ...some });
  const flip = (status) => change({ status: filters.status.includes(status)
    ? filters.status.filter((one) => one !== status) : [...filters.status, status] });
  const addLabel = (label) => { if (!filters.label.includes(label)) change({ label: [...filters.label, label] }); };
  const labelTyped = (event) => {
    const value = event.target.value.trim();
    if (event.key !== 'Enter' || !/^[^:]+:/.test(value)) return;
    addLabel(value);
    event.target.value = '';
  };
  const filtered = queryOf(filters).toString() !== '';

  return html`<main id="content">
    <h1 class="hidden">Commands</h1>
    <section class="overview">
      <div class="counters" role="group" aria-label="Show only these statuses">
        ${STATUSES.map((one) => html`<button type="button" class="counter ${one}" aria-pressed=${filters.status.includes(one)}
          onClick=${() => flip(one)}><b>${counts ? counts[one].toLocaleString('en') : '–'}</b><span class="status ${one}"><i aria-hidden="true"></i>${one}</span></button>`)}
      </div>
      <${Plot} activity=${activity.current} now=${now} />
    </section>
    <form class="filters" role="search" onSubmit=${(event) => event.preventDefault()}>
      <input type="search" ref=${searchField} aria-label="Text in the script" placeholder="Search in scripts  ( / )" value=${filters.q}
        onInput=${(event) => change({ q: event.target.value })} />
      <input type="search" aria-label="Whole name" placeholder="Name" value=${filters.name} onInput=${(event) => change({ name: event.target.value })} />
      <input aria-label="Add a label, as name:value, with Enter" placeholder="label:value ↵" onKeyDown=${labelTyped} />
      ${filters.label.map((one) => html`<button type="button" class="label" aria-label="Do not ask for the label ${one}"
        onClick=${() => change({ label: filters.label.filter((other) => other !== one) })}>${one} ×</button>`)}
      ${filtered && html`<button type="button" class="quiet" onClick=${() => setFilters({ status: [], label: [], name: '', q: '' })}>Clear</button>`}
    </form>
    ${trouble && html`<p class="trouble" role="alert">${trouble}</p>`}
    ${searched !== null && html`<p class="muted small">Looked into the newest ${searched.toLocaleString('en')} commands.</p>`}
    ${rows !== null && rows.length === 0 && html`<div class="empty"><p>${filtered ? 'No command fits.' : 'Nothing has been run yet.'}</p>
      ${!filtered && html`<a class="button primary" href="#/run">Run the first script</a>`}</div>`}
    ${rows !== null && rows.length > 0 && html`<div class="table"><table class="commands">
      <thead><tr><th scope="col">Id</th><th scope="col">Status</th><th scope="col">Command</th><th scope="col">Created</th><th scope="col" class="number">Ran</th></tr></thead>
      <tbody>${rows.map((one, at) => html`<${Row} key=${one.id} command=${one} now=${isFinal(one) ? 0 : now} chosen=${at === chosen} onLabel=${addLabel} />`)}</tbody>
    </table></div>`}
    ${next && html`<p class="row center"><button type="button" onClick=${() => load(next)}>Older commands</button></p>`}
  </main>`;
}

function Row({ command, now, chosen, onLabel }) {
  const script = command.script.trim();
  return html`<tr class=${chosen ? 'chosen' : ''}>
    <td class="id"><a href="#/commands/${command.id}">${command.id}</a></td>
    <td class="state"><${Status} command=${command} /></td>
    <td class="what"><a href="#/commands/${command.id}" tabindex="-1">${command.name && html`<b>${command.name}</b> `}<code>${script.split('\n').filter((one) => !one.startsWith('#!'))[0] || script}</code></a>
      ${Object.entries(command.labels).map(([name, value]) => html` <button type="button" class="label" onClick=${() => onLabel(`${name}:${value}`)}>${name}:${value}</button>`)}</td>
    <td class="when"><time datetime=${command.created_at}>${clock(command.created_at)}</time></td>
    <td class="number">${ran(command, now)}</td>
  </tr>`;
}
