// A stream of events that goes on by itself: after a lost connection, a restart, a refusal for now.
import { ask } from './api.js';

const PAUSES_MS = [500, 1000, 2000, 4000];

export class Stream {
  // `on` has a function for each event's name. `onConnected` is told true or false; null once it is over.
  constructor(path, on, onConnected) {
    this.path = path;
    this.on = on;
    this.onConnected = onConnected;
    this.lastId = null;
    this.failures = 0;
    this.open();
  }

  open() {
    const path = this.lastId === null ? this.path : `${this.path}?last_event_id=${encodeURIComponent(this.lastId)}`;
    this.source = new EventSource(path);
    this.source.onopen = () => { this.failures = 0; this.onConnected(true); };
    this.source.onerror = () => this.retry();
    for (const [name, take] of Object.entries(this.on)) {
      this.source.addEventListener(name, (event) => {
        if (event.lastEventId) this.lastId = event.lastEventId;
        take(JSON.parse(event.data));
        if (name === 'end') this.close();
      });
    }
  }

  // A browser gives up for ever on any answer that is not 200, so the waiting is ours.
  retry() {
    this.source.close();
    this.onConnected(false);
    const pause = PAUSES_MS[Math.min(this.failures++, PAUSES_MS.length - 1)];
    this.timer = setTimeout(() => this.open(), pause);
    if (this.failures === 2) ask('/v1/counts').catch(() => {}); // a 401 leads to the login
  }

  close() {
    clearTimeout(this.timer);
    this.source.close();
    this.onConnected(null);
  }
}
