// The process tree of a command, and what it takes, asked for each second while somebody looks.
import { html, useEffect, useRef, useState } from './vendor/preact.js';
import { ask } from './api.js';
import { duration, size } from './words.js';

const EVERY_MS = 1000;
const SAMPLES = 120;

export function useProcesses(id, running) {
  const [tree, setTree] = useState(null);
  const samples = useRef([]);
  useEffect(() => {
    if (!running) { setTree(null); return undefined; }
    let timer = null;
    let over = false;
    let before = null;
    const look = async () => {
      if (!document.hidden) {
        try {
          const found = await ask(`/v1/commands/${id}/processes`);
          if (over) return;
          const now = { at: performance.now(), cpu_s: new Map(found.processes.map((one) => [one.pid, one.cpu_s])) };
          const rss_bytes = found.processes.reduce((sum, one) => sum + one.rss_bytes, 0);
          if (before) {
            let used_s = 0; // of those that were there before: who came or went would be a jump
            now.cpu_s.forEach((cpu_s, pid) => { used_s += Math.max(0, cpu_s - (before.cpu_s.get(pid) ?? cpu_s)); });
            samples.current.push({ cpu: used_s / ((now.at - before.at) / 1000), rss_bytes });
            if (samples.current.length > SAMPLES) samples.current.shift();
          }
          before = now;
          setTree(found);
        } catch { /* the connection's own sign says that it is lost */ }
      }
      if (!over) timer = setTimeout(look, EVERY_MS);
    };
    look();
    return () => { over = true; clearTimeout(timer); };
  }, [id, running]);
  return { tree, samples: samples.current };
}

export function Curves({ samples }) {
  if (samples.length < 2) return null;
  const last = samples[samples.length - 1];
  return html`<div class="curves">
    <${Curve} name="CPU" values=${samples.map((one) => one.cpu * 100)} least=${100} said="${Math.round(last.cpu * 100)} %" />
    <${Curve} name="Memory" values=${samples.map((one) => one.rss_bytes)} least=${1024 * 1024} said=${size(last.rss_bytes)} />
  </div>`;
}

function Curve({ name, values, least, said }) {
  const most = Math.max(least, ...values) * 1.1;
  const points = values.map((value, at) => `${((at + SAMPLES - values.length) / (SAMPLES - 1)) * 200},${40 - (value / most) * 38}`);
  const begin = ((SAMPLES - values.length) / (SAMPLES - 1)) * 200;
  return html`<figure class="curve"><figcaption>${name}<b>${said}</b></figcaption>
    <svg viewBox="0 0 200 40" preserveAspectRatio="none" role="img" aria-label="${name} over the last two minutes, now ${said}">
      <polygon points="${begin},40 ${points.join(' ')} 200,40" /><polyline points=${points.join(' ')} />
    </svg></figure>`;
}

export function Tree({ tree }) {
  if (!tree || !tree.processes.length) return html`<p class="muted">No process is alive.</p>`;
  const depth = new Map();
  return html`<div class="table tree"><table>
    <thead><tr><th scope="col">Process</th><th scope="col">Pid</th><th scope="col">State</th><th scope="col" class="number">CPU</th><th scope="col" class="number">Memory</th><th scope="col" class="number">Age</th></tr></thead>
    <tbody>${tree.processes.map((one) => {
      depth.set(one.pid, (depth.get(one.ppid) ?? -1) + 1);
      return html`<tr key=${one.pid}><td><code class="depth${Math.min(depth.get(one.pid), 8)}" title=${one.command_line}>${one.command_line}</code>${one.escaped && html` <span class="tag">escaped</span>`}</td>
        <td>${one.pid}</td><td>${one.state}</td><td class="number">${duration(one.cpu_s)}</td><td class="number">${size(one.rss_bytes)}</td><td class="number">${duration(one.age_s)}</td></tr>`;
    })}</tbody></table></div>
    ${!tree.complete && html`<p class="muted small">There are more than are shown.</p>`}`;
}
