// Which view the address names. It stands behind '#', so that every address is the same file.
import { useEffect, useState } from './vendor/preact.js';

export function parse(hash) {
  const [path, query = ''] = hash.replace(/^#/, '').split('?');
  const parameters = new URLSearchParams(query);
  const command = /^\/commands\/([1-9][0-9]*)$/.exec(path);
  if (command) return { view: 'command', id: command[1], parameters };
  if (path === '/run') return { view: 'run', parameters };
  return { view: 'list', parameters };
}

export function useRoute() {
  const [route, setRoute] = useState(parse(location.hash));
  useEffect(() => {
    const changed = () => setRoute(parse(location.hash));
    addEventListener('hashchange', changed);
    return () => removeEventListener('hashchange', changed);
  }, []);
  return route;
}

export const go = (address) => { location.hash = address; };

// Changes the address without a step back to the old one, and without anybody being told.
export const readdress = (address) => history.replaceState(null, '', `#${address}`);
