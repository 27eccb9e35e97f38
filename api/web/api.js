// What the page asks of the API. A refusal is a Problem, which names the fields at fault.

export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || body.title || `The answer was ${status}.`);
    this.status = status;
    this.errors = body.errors || [];
  }
}

// Told when an answer says that there is no session (any more).
let onStranger = () => {};
export const whenStranger = (tell) => { onStranger = tell; };

export async function ask(path, { method = 'GET', json, headers = {} } = {}) {
  const options = { method, headers: { 'X-Bashd-Page': '1', ...headers } };
  if (json !== undefined) {
    options.headers['Content-Type'] = 'application/json';
    options.body = JSON.stringify(json);
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Problem(0, { detail: 'Bashd does not answer.' });
  }
  const body = await answer.text();
  const isJson = (answer.headers.get('content-type') || '').includes('json');
  if (answer.ok) return isJson ? JSON.parse(body) : body;
  const problem = new Problem(answer.status, isJson ? JSON.parse(body) : {});
  if (answer.status === 401) onStranger(problem);
  throw problem;
}

export const logIn = (scheme, secret) =>
  ask('/v1/session', { method: 'POST', headers: { Authorization: `${scheme} ${secret}` } });
export const logOut = () => ask('/v1/session', { method: 'DELETE' });
