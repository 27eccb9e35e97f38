// One command: what it is, what became of it, what it prints, what it consists of; and what can be done to it.
import { html, useEffect, useRef, useState } from './vendor/preact.js';
import { ask } from './api.js';
import { Confirm } from './dialog.js';
import { Lines } from './lines.js';
import { Stream } from './live.js';
import { Output } from './output.js';
import { Curves, Tree, useProcesses } from './processes.js';
import { go, readdress } from './router.js';
import { Status, clock, duration, exact, isFinal, ran, size, useNow } from './words.js';

const SIGNALS = ['INT', 'HUP', 'USR1', 'USR2', 'STOP', 'CONT', 'QUIT', 'KILL'];

// The command and its lines, alive. Many events become one picture, and no picture holds up the page for long.
function useCommand(id, onConnected) {
  const [command, setCommand] = useState(null);
  const [version, setVersion] = useState(0);
  const [trouble, setTrouble] = useState('');
  const lines = useRef(new Lines());
  useEffect(() => {
    let over = false;
    let timer = null;
    let latest = null;
    let stream = null;
    const waiting = [];
    const show = () => {
      timer = null;
      const until = performance.now() + 12;
      let at = 0;
      while (at < waiting.length && performance.now() < until) {
        const [name, event] = waiting[at];
        at += 1;
        if (name === 'gap') lines.current.gap(event); else lines.current.take(event);
      }
      waiting.splice(0, at);
      if (latest) setCommand(latest);
      setVersion((old) => old + 1);
      if (waiting.length) later();
    };
    const later = () => { timer ??= setTimeout(show, lines.current.lines.length > 20000 ? 120 : 30); };
    const take = (name) => (event) => { waiting.push([name, event]); later(); };
    const become = (event) => { latest = event; later(); };
    ask(`/v1/commands/${id}`).then((found) => {
      if (over) return;
      setCommand(found);
      stream = new Stream(`/v1/commands/${id}/events`,
        { output: take('output'), gap: take('gap'), status: (event) => { if (!isFinal(found)) become(event); }, end: become }, onConnected);
    }, (problem) => {
      setTrouble(problem.status === 404 ? `There is no command ${id}.` : problem.message);
    });
    return () => { over = true; clearTimeout(timer); stream?.close(); };
  }, [id]);
  return { command, lines: lines.current, version, trouble };
}

export function Command({ id, parameters, onConnected }) {
  const { command, lines, version, trouble } = useCommand(id, onConnected);
  const [asking, setAsking] = useState(null);
  const [refused, setRefused] = useState('');
  const running = command !== null && !isFinal(command);
  const { tree, samples } = useProcesses(id, running && command.status === 'running');
  const now = useNow(200, running);
  const line = Number(parameters.get('line')) || null;

  useEffect(() => { document.title = command ? `${command.status} · ${command.name || `command ${id}`} · Bashd` : 'Bashd'; }, [command?.status]);
  useEffect(() => {
    const pressed = (event) => {
      if (event.target.closest('input, textarea, select, dialog') || event.ctrlKey || event.metaKey || event.altKey || !command) return;
      if (event.key === 's' && !isFinal(command)) setAsking('stop');
      else if (event.key === 'r') setAsking('rerun');
    };
    addEventListener('keydown', pressed);
    return () => removeEventListener('keydown', pressed);
  }, [command]);

  const send = async (path, json) => {
    setRefused('');
    try { return await ask(`/v1/commands/${id}/${path}`, { method: 'POST', json }); } catch (problem) { setRefused(problem.message); return null; }
  };
  const rerun = async () => { const made = await send('rerun', {}); if (made) go(`/commands/${made.id}`); };

  if (trouble) return html`<main id="content"><div class="empty"><p role="alert">${trouble}</p><a class="button" href="#/">To the list</a></div></main>`;
  if (!command) return html`<main id="content" aria-busy="true"></main>`;
  return html`<main id="content" class="command">
    <header class="title">
      <div><h1>${command.name || html`Command ${command.id}`}</h1>
        <p class="under"><${Status} command=${command} /> <span class="ran">${ran(command, now)}</span> <span class="muted">#${command.id}</span>
        ${command.rerun_of && html` <a href="#/commands/${command.rerun_of}">rerun of ${command.rerun_of}</a>`}
        ${Object.entries(command.labels).map(([name, value]) => html` <a class="label" href="#/?label=${encodeURIComponent(`${name}:${value}`)}">${name}:${value}</a>`)}</p></div>
      <div class="row">
        ${command.status === 'running' && html`<button type="button" onClick=${() => setAsking('signal')}>Signal …</button>`}
        <button type="button" title="Rerun (r)" onClick=${() => setAsking('rerun')}>Rerun</button>
        ${running && html`<button type="button" class="danger" title="Stop (s)" onClick=${() => setAsking('stop')}>Stop</button>`}
      </div>
    </header>
    ${refused && html`<p class="trouble" role="alert">${refused}</p>`}
    ${command.evidence && html`<p class="notice"><b>Evidence:</b> <code>${JSON.stringify(command.evidence)}</code></p>`}
    ${command.truncated && html`<p class="notice">Output is missing here (${command.truncated.reason.replaceAll('_', ' ')}): ${missing(command.truncated)}.</p>`}
    <${Timeline} command=${command} now=${now} />
    <${Output} id=${id} lines=${lines} version=${version} final=${!running} initialLine=${line}
      onLine=${(number) => readdress(`/commands/${id}?line=${number}`)} />
    ${command.status === 'running' && html`<section class="card" aria-label="Processes"><div class="beside"><h2>Processes</h2><${Curves} samples=${samples} /></div><${Tree} tree=${tree} /></section>`}
    <section class="card"><h2>Script</h2><pre class="script" tabindex="0">${command.script}</pre><${Facts} command=${command} /></section>
    ${asking === 'stop' && html`<${Confirm} title="Stop command ${id}?" danger word="Stop it"
      text="TERM goes to bash and everything it started, and KILL after ${command.grace_s} s to what is still alive."
      onYes=${() => send('stop', {})} onClose=${() => setAsking(null)} />`}
    ${asking === 'rerun' && html`<${Confirm} title="Run it again?" word="Run again" text="The same script with the same arguments and variables, as a new command."
      onYes=${rerun} onClose=${() => setAsking(null)} />`}
    ${asking === 'signal' && html`<${AskSignal} onSend=${(signal) => send('signal', { signal })} onClose=${() => setAsking(null)} />`}
  </main>`;
}

function AskSignal({ onSend, onClose }) {
  const [signal, setSignal] = useState('INT');
  return html`<${Confirm} title="Send a signal" word="Send ${signal}" text="It goes to the whole group, and is no stop: what comes of it is up to the script."
    onYes=${() => onSend(signal)} onClose=${onClose}>
    <label class="field"><span>Signal</span><select value=${signal} onChange=${(event) => setSignal(event.target.value)}>${SIGNALS.map((one) => html`<option>${one}</option>`)}</select></label>
  <//>`;
}

const missing = (truncated) => ['stdout', 'stderr'].flatMap((stream) => truncated[stream]
  .map(([from, to]) => `${size(to - from)} of ${stream} from byte ${from.toLocaleString('en')} on`)).join(', ');

function Timeline({ command, now }) {
  const began = Date.parse(command.created_at);
  const swept = command.swept.group + command.swept.escaped;
  const points = [
    ['Queued', command.created_at],
    ['Started', command.started_at],
    ...command.signals.slice(-5).map(({ signal, at }) => [`Signal ${signal}`, at]),
    ['Stop asked for', command.stop_requested_at],
    ['Ended', command.ended_at],
  ].filter(([, at]) => at).sort(([, one], [, other]) => (one < other ? -1 : one > other ? 1 : 0));
  return html`<ol class="timeline" aria-label="Timeline">
    ${points.map(([word, at], index) => html`<li key=${word + at}><b>${word}</b><time datetime=${at}>${clock(at)}</time><span class="muted">${index === 0 ? '' : `+${duration((Date.parse(at) - began) / 1000)}`}</span></li>`)}
    ${!isFinal(command) && html`<li class="now" key="now"><b>${command.status === 'queued' ? 'Waits' : command.paused ? 'Paused' : 'Runs'}</b><span class="muted">+${duration((now - began) / 1000)}</span></li>`}
    ${(swept > 0 || command.swept.left > 0) && html`<li key="swept"><b>Swept</b><span>${command.swept.group} in its group, ${command.swept.escaped} escaped${command.swept.left ? `, ${command.swept.left} left alive` : ''}</span></li>`}
  </ol>`;
}

function Facts({ command }) {
  const facts = [
    ['Reason', command.reason], ['Exit code', command.exit_code], ['Signal', command.signal],
    ['Arguments', command.args.length ? command.args.map((one) => JSON.stringify(one)).join(' ') : null],
    ['Directory', command.cwd], ['User', command.run_as], ['Pid', command.pid], ['Worker', command.worker_pid],
    ['Timeout', command.timeout_s === null ? 'none' : duration(command.timeout_s)], ['Grace', duration(command.grace_s)],
    ['Leftovers', command.leftovers], ['Streams', command.merge_stderr ? 'merged' : null],
    ['stdout', isFinal(command) ? size(command.stdout_bytes) : null], ['stderr', isFinal(command) ? size(command.stderr_bytes) : null],
    ['CPU', command.usage.cpu_s === null ? null : duration(command.usage.cpu_s)],
    ['Most memory', command.usage.max_rss_bytes === null ? null : size(command.usage.max_rss_bytes)],
    ['Started', command.started_at && `${exact(command.started_at)} UTC`], ['Ended', command.ended_at && `${exact(command.ended_at)} UTC`],
  ];
  return html`<dl class="facts">${facts.filter(([, value]) => value !== null && value !== undefined)
    .map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}
