// The form that runs a script. What is wrong stands at its field, in the words of the API.
import { html, useEffect, useRef, useState } from './vendor/preact.js';
import { ask } from './api.js';
import { go } from './router.js';

const BEGIN = '#!/usr/bin/env bash\nset -euo pipefail\n\n';
const DRAFT = 'bashd.draft';

// NAME=value on each line; what has no '=' is told by its line.
function pairs(text, separator) {
  const found = {};
  text.split('\n').forEach((line, at) => {
    if (!line.trim()) return;
    const cut = line.indexOf(separator);
    if (cut < 1) throw new Error(`line ${at + 1} is not NAME${separator}value`);
    found[line.slice(0, cut).trim()] = line.slice(cut + 1);
  });
  return found;
}

function draft() {
  try { return sessionStorage.getItem(DRAFT) || BEGIN; } catch { return BEGIN; }
}

export function Run() {
  const [fields, setFields] = useState({ script: draft(), args: '', env: '', labels: '', name: '', timeout_s: '300', run_as: '', cwd: '', stdin: '', merge_stderr: false });
  const [errors, setErrors] = useState({});
  const [sending, setSending] = useState(false);
  const form = useRef(null);
  const set = (name) => (event) => {
    const value = event.target.type === 'checkbox' ? event.target.checked : event.target.value;
    setFields((old) => ({ ...old, [name]: value }));
    if (name === 'script') try { sessionStorage.setItem(DRAFT, value); } catch { /* then it is not kept */ }
  };
  useEffect(() => {
    document.title = 'Run · Bashd';
    const editor = form.current.elements.script;
    editor.focus();
    editor.setSelectionRange(editor.value.length, editor.value.length);
  }, []);

  const run = async (event) => {
    event?.preventDefault();
    const wrong = {};
    const request = { script: fields.script };
    for (const [name, separator] of [['env', '='], ['labels', ':']]) {
      try { request[name] = pairs(fields[name], separator); } catch (error) { wrong[name] = error.message; }
    }
    if (fields.args) request.args = fields.args.replace(/\n$/, '').split('\n');
    for (const name of ['name', 'run_as', 'cwd', 'stdin']) if (fields[name]) request[name] = fields[name];
    request.merge_stderr = fields.merge_stderr;
    const timeout_s = fields.timeout_s.trim();
    if (timeout_s === '') request.timeout_s = null;
    else if (Number.isFinite(Number(timeout_s))) request.timeout_s = Number(timeout_s);
    else wrong.timeout_s = 'must be a number of seconds, or empty for none';
    if (!Object.keys(wrong).length) {
      setSending(true);
      try {
        const command = await ask('/v1/commands', { method: 'POST', json: request });
        try { sessionStorage.removeItem(DRAFT); } catch { /* nothing was kept */ }
        go(`/commands/${command.id}`);
        return;
      } catch (problem) {
        problem.errors.forEach(({ field, message }) => { wrong[field.split('.')[0]] = message; });
        if (!problem.errors.length) wrong.form = problem.message;
      }
      setSending(false);
    }
    setErrors(wrong);
    form.current.elements[Object.keys(wrong)[0]]?.focus();
  };

  // Tab indents; after Escape it moves on as everywhere, so that no keyboard is caught.
  const escaped = useRef(false);
  const typed = (event) => {
    const editor = event.target;
    if (event.key === 'Escape') { escaped.current = true; return; }
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) { run(event); return; }
    if (event.key === 'Tab' && !event.shiftKey && !escaped.current) {
      event.preventDefault();
      editor.setRangeText('  ', editor.selectionStart, editor.selectionEnd, 'end');
      set('script')(event);
    }
    if (event.key !== 'Shift') escaped.current = false;
  };

  const field = (name, word, hint, control) => html`<div class="field ${errors[name] ? 'wrong' : ''}"><label for="field-${name}">${word}</label>
    ${control || html`<input id="field-${name}" name=${name} value=${fields[name]} onInput=${set(name)} aria-invalid=${Boolean(errors[name])} aria-describedby="about-${name}" />`}
    <small id="about-${name}" role=${errors[name] ? 'alert' : null}>${errors[name] ? `${word} ${errors[name]}` : hint}</small></div>`;
  const area = (name) => html`<textarea id="field-${name}" name=${name} rows="3" spellcheck=${false} onInput=${set(name)} aria-invalid=${Boolean(errors[name])} aria-describedby="about-${name}" value=${fields[name]}></textarea>`;

  return html`<main id="content"><form class="run" ref=${form} onSubmit=${run} noValidate>
    <header class="title"><h1>Run a script</h1></header>
    ${errors.form && html`<p class="trouble" role="alert">${errors.form}</p>`}
    ${Object.entries(errors).filter(([name]) => !(name in fields) && name !== 'form').map(([name, message]) => html`<p class="trouble" role="alert">${name} ${message}</p>`)}
    ${field('script', 'Script', 'Tab indents; Escape, then Tab leaves. Ctrl+Enter runs.', html`<textarea id="field-script" name="script" class="editor" rows="14" spellcheck=${false} autocapitalize="off" autocomplete="off"
      aria-invalid=${Boolean(errors.script)} aria-describedby="about-script" onInput=${set('script')} onKeyDown=${typed} value=${fields.script}></textarea>`)}
    <div class="columns">
      ${field('name', 'Name', 'To find it again.')}
      ${field('timeout_s', 'Timeout', 'Seconds; empty for none.')}
      ${field('args', 'Arguments', 'One a line, $1 first.', area('args'))}
      ${field('env', 'Variables', 'NAME=value, one a line.', area('env'))}
      ${field('labels', 'Labels', 'name:value, one a line.', area('labels'))}
      ${field('stdin', 'Standard input', 'Empty: /dev/null.', area('stdin'))}
      ${field('cwd', 'Directory', 'Empty: one of its own.')}
      ${field('run_as', 'User', 'Only when Bashd runs as root.')}
    </div>
    <label class="check"><input type="checkbox" name="merge_stderr" checked=${fields.merge_stderr} onChange=${set('merge_stderr')} /> One pipe for both streams, so that their order is exact</label>
    <p class="row end"><button type="submit" class="primary" disabled=${sending}>${sending ? 'Is handed in …' : 'Run'}</button></p>
  </form></main>`;
}
