// How many commands began and ended in each of the last minutes.
import { html } from './vendor/preact.js';

export const MINUTES = 30;
const HEIGHT = 44;

// What is known of starts and ends: command → its two times, of which old ones are forgotten.
export class Activity {
  constructor() { this.times = new Map(); }

  note(command) {
    this.times.set(command.id, [Date.parse(command.started_at), Date.parse(command.ended_at)]);
    if (this.times.size > 20000) this.times.delete(this.times.keys().next().value);
  }

  perMinute(now) {
    const last = Math.floor(now / 60000);
    const minutes = Array.from({ length: MINUTES }, () => [0, 0]);
    for (const pair of this.times.values()) {
      pair.forEach((time, kind) => {
        const at = MINUTES - 1 - (last - Math.floor(time / 60000));
        if (at >= 0 && at < MINUTES) minutes[at][kind] += 1;
      });
    }
    return minutes;
  }
}

export function Plot({ activity, now }) {
  const minutes = activity.perMinute(now);
  const most = Math.max(4, ...minutes.flat());
  const starts = minutes.reduce((sum, one) => sum + one[0], 0);
  const ends = minutes.reduce((sum, one) => sum + one[1], 0);
  const bar = (value, x, name) => value > 0 && html`<rect class=${name} x=${x} width="3.4" rx="1"
    y=${HEIGHT - Math.max(1.5, (value / most) * HEIGHT)} height=${Math.max(1.5, (value / most) * HEIGHT)} />`;
  return html`<figure class="activity">
    <svg viewBox="0 0 ${MINUTES * 10} ${HEIGHT}" preserveAspectRatio="none" role="img"
      aria-label="In the last ${MINUTES} minutes ${starts} started and ${ends} ended">
      <line class="ground" x1="0" x2=${MINUTES * 10} y1=${HEIGHT} y2=${HEIGHT} />
      ${minutes.map(([begun, ended], at) => html`<g>${bar(begun, at * 10 + 1, 'starts')}${bar(ended, at * 10 + 5, 'ends')}</g>`)}
    </svg>
    <figcaption><span class="starts">started ${starts}</span><span class="ends">ended ${ends}</span>
      <span class="muted">last ${MINUTES} minutes, at most ${Math.max(0, ...minutes.flat())} in one</span></figcaption>
  </figure>`;
}
