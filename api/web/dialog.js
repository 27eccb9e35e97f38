// A question in a <dialog>, which keeps the keyboard inside and closes with Escape.
import { html, useEffect, useRef } from './vendor/preact.js';

export function Dialog({ title, onClose, children }) {
  const element = useRef(null);
  useEffect(() => { element.current.showModal(); }, []);
  return html`<dialog ref=${element} aria-label=${title} onClose=${onClose}
    onClick=${(event) => { if (event.target === element.current) element.current.close(); }}>
    <div class="inside"><h2>${title}</h2>${children}</div>
  </dialog>`;
}

export function Confirm({ title, text, word, danger, onYes, onClose, children }) {
  return html`<${Dialog} title=${title} onClose=${onClose}>
    <p>${text}</p>${children}
    <div class="row end">
      <button type="button" onClick=${onClose}>Cancel</button>
      <button type="button" class=${danger ? 'danger' : 'primary'} onClick=${() => { onYes(); onClose(); }}>${word}</button>
    </div>
  <//>`;
}
