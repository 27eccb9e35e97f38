// How times, sizes and states are said.
import { useEffect, useState, html } from './vendor/preact.js';

export const FINAL = ['succeeded', 'failed', 'stopped', 'lost'];
export const STATUSES = ['queued', 'running', ...FINAL];
export const isFinal = (command) => FINAL.includes(command.status);

export function duration(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return '–';
  const s = Math.max(0, seconds);
  if (s < 1) return `${Math.round(s * 1000)} ms`;
  if (s < 60) return `${s.toFixed(1)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

export function size(bytes) {
  if (bytes === null || bytes === undefined) return '–';
  if (bytes < 1024) return `${bytes} B`;
  const units = ['KiB', 'MiB', 'GiB', 'TiB'];
  let unit = -1;
  let value = bytes;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

export function clock(iso) {
  if (!iso) return '–';
  const at = new Date(iso);
  const day = at.toDateString() === new Date().toDateString() ? '' : `${at.toLocaleDateString('en-CA')} `;
  return day + at.toLocaleTimeString('en-GB');
}

export function exact(iso) {
  return iso ? new Date(iso).toISOString().slice(11, 23) : '';
}

// How long it has run, or ran.
export function ran(command, now) {
  if (command.duration_s !== null) return duration(command.duration_s);
  if (!command.started_at) return '–';
  if (isFinal(command)) return duration((Date.parse(command.ended_at) - Date.parse(command.started_at)) / 1000);
  return duration((now - Date.parse(command.started_at)) / 1000);
}

export function outcome(command) {
  if (command.paused) return 'paused';
  if (command.status === 'running' && command.stop_requested_at) return 'is being stopped';
  if (command.signal !== null) return `signal ${command.signal}`;
  if (command.exit_code !== null && command.exit_code !== 0) return `exit ${command.exit_code}`;
  if (isFinal(command) && !['exit', null].includes(command.reason)) return command.reason.replaceAll('_', ' ');
  return '';
}

export function Status({ command }) {
  const more = outcome(command);
  return html`<span class="status ${command.status}"><i aria-hidden="true"></i>${command.status}</span>
    ${more && html` <span class="outcome">${more}</span>`}`;
}

// The time, anew each so many milliseconds.
export function useNow(every_ms, ticking = true) {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    if (!ticking) return undefined;
    const timer = setInterval(() => setNow(Date.now()), every_ms);
    return () => clearInterval(timer);
  }, [every_ms, ticking]);
  return now;
}
