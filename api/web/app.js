// The page: who looks at it, where he is, and whether it is connected.
import { html, render, useEffect, useRef, useState } from './vendor/preact.js';
import { ask, logIn, logOut, whenStranger } from './api.js';
import { Command } from './command.js';
import { Dialog } from './dialog.js';
import { List } from './list.js';
import { go, useRoute } from './router.js';
import { Run } from './run.js';

const KEYS = [
  ['?', 'this list'], ['g', 'to the list'], ['n', 'run a new script'],
  ['/', 'search'], ['j  k', 'down and up in the list'], ['Enter', 'look at the chosen command'],
  ['f', 'follow the output'], ['w', 'wrap lines'], ['t', 'show times'], ['s', 'stop the command'], ['r', 'run it again'],
  ['Ctrl+Enter', 'run, in the editor'], ['Escape', 'close, leave a field'],
];

function Login({ told, onIn }) {
  const [token, setToken] = useState('');
  const [refused, setWrong] = useState('');
  const wrong = refused || told;
  const field = useRef(null);
  useEffect(() => { document.title = 'Log in · Bashd'; field.current.focus(); }, []);
  const send = async (event) => {
    event.preventDefault();
    if (/[^\x21-\x7e]/.test(token.trim())) { setWrong('A token has no blanks and no such letters.'); return; }
    try {
      await logIn('Bearer', token.trim());
      onIn();
    } catch (problem) {
      setWrong(problem.status === 401 ? 'This is not the token.' : problem.message);
      field.current.select();
    }
  };
  return html`<main id="content" class="login"><form onSubmit=${send}>
    <h1>Bashd</h1>
    <div class="field ${wrong ? 'wrong' : ''}"><label for="token">Token</label>
      <input type="password" id="token" name="token" ref=${field} autocomplete="current-password" value=${token} aria-invalid=${Boolean(wrong)} aria-describedby="about-token"
        onInput=${(event) => setToken(event.target.value)} />
      <small id="about-token" role=${wrong ? 'alert' : null}>${wrong || 'The first lines that Bashd prints say where it is.'}</small></div>
    <p class="row end"><button type="submit" class="primary">Log in</button></p>
  </form></main>`;
}

function App() {
  const route = useRoute();
  const [inside, setInside] = useState(null); // null: not known yet
  const [told, setTold] = useState('');
  const [connected, setConnected] = useState(null);
  const [helping, setHelping] = useState(false);
  const search = useRef(null);

  useEffect(() => {
    whenStranger(() => setInside(false));
    const code = /^#code=(.+)$/.exec(location.hash);
    const enter = () => ask('/v1/counts').then(() => setInside(true),
      (problem) => { if (problem.status !== 401) { setInside(true); setConnected(false); } });
    if (!code) { enter(); return; }
    history.replaceState(null, '', '#/'); // it is used up, and nobody shall find it in the history
    logIn('Code', code[1]).then(enter, () => setTold('This link was used already, or is too old.'));
  }, []);
  useEffect(() => { setConnected(null); if (route.view === 'list') document.title = 'Bashd'; }, [route.view, route.id]);
  useEffect(() => {
    const pressed = (event) => {
      if (event.target.closest('input, textarea, select, dialog') || event.ctrlKey || event.metaKey || event.altKey || !inside) {
        if (event.key === 'Escape' && event.target.closest('input')) event.target.blur();
        return;
      }
      if (event.key === '?') setHelping(true);
      else if (event.key === 'g') go('/');
      else if (event.key === 'n') { event.preventDefault(); go('/run'); }
      else if (event.key === '/' && search.current) { event.preventDefault(); search.current.focus(); }
    };
    addEventListener('keydown', pressed);
    return () => removeEventListener('keydown', pressed);
  }, [inside]);

  const leave = () => logOut().finally(() => { setTold(''); setInside(false); });

  if (inside === null && !told) return null;
  if (!inside) return html`<${Login} told=${told} onIn=${() => setInside(true)} />`;
  return html`<a class="skip" href="#content" onClick=${(event) => { event.preventDefault(); document.querySelector('main a, main button, main input')?.focus(); }}>To the content</a>
    <nav class="top" aria-label="Main">
      <a class="brand" href="#/"><span aria-hidden="true">›_</span> Bashd</a>
      <a href="#/" aria-current=${route.view === 'list' ? 'page' : null}>Commands</a>
      <a href="/docs">API</a>
      <span class="grow"></span>
      ${connected !== null && html`<span class="connection ${connected ? 'on' : 'off'}" role="status">${connected ? 'live' : 'connection lost, trying again'}</span>`}
      <button type="button" class="quiet" aria-label="Keys" onClick=${() => setHelping(true)}>?</button>
      <button type="button" class="quiet" onClick=${leave}>Log out</button>
      <a class="button primary" href="#/run">Run</a>
    </nav>
    ${route.view === 'list' && html`<${List} key=${route.parameters.toString()} parameters=${route.parameters} onConnected=${setConnected} searchField=${search} />`}
    ${route.view === 'command' && html`<${Command} key=${route.id} id=${route.id} parameters=${route.parameters} onConnected=${setConnected} />`}
    ${route.view === 'run' && html`<${Run} />`}
    ${helping && html`<${Dialog} title="Keys" onClose=${() => setHelping(false)}>
      <dl class="keys">${KEYS.map(([key, does]) => html`<div><dt><kbd>${key}</kbd></dt><dd>${does}</dd></div>`)}</dl>
      <p class="row end"><button type="button" onClick=${() => setHelping(false)}>Close</button></p>
    <//>`}`;
}

render(html`<${App} />`, document.body);
