// The lines of an output, bounded: what is oldest goes first, and is counted.
import { spans } from './ansi.js';

export const KEPT_LINES = 200000;
const KEPT_CHARACTERS = 48 * 1024 * 1024;
const LONGEST = 4096; // characters: a longer line is shown as several

export class Lines {
  constructor() {
    this.lines = [];
    this.dropped = 0; // lines before the first that is kept
    this.characters = 0;
    this.version = 0;
    this.number = 0; // of the last line
    this.open = {}; // stream → its line that has not ended
    this.style = {}; // stream → how its next line begins
    this.decoders = {};
  }

  // The text of an event: characters may be cut between two of them.
  take({ stream, time, text, base64 }) {
    const decoder = (this.decoders[stream] ||= new TextDecoder());
    if (base64 !== undefined) {
      text = decoder.decode(Uint8Array.from(atob(base64), (one) => one.charCodeAt(0)), { stream: true });
    } else {
      text = decoder.decode() + text; // what was cut before it stays cut
    }
    let from = 0;
    while (from < text.length) {
      const newline = text.indexOf('\n', from);
      const to = newline < 0 ? text.length : newline;
      const line = this.open[stream] || this.add(stream, time);
      const room = LONGEST - line.text.length;
      if (to - from > room) {
        this.grow(line, text.slice(from, from + room));
        from += room;
        this.close(stream);
        continue;
      }
      this.grow(line, text.slice(from, to));
      if (newline >= 0) this.close(stream);
      from = to + (newline < 0 ? 0 : 1);
    }
    this.trim();
    this.version += 1;
  }

  gap({ stream, from, to }) {
    this.close(stream);
    this.number += 1;
    this.lines.push({ number: this.number, stream, gap: [from, to], text: '', time: null });
    this.version += 1;
  }

  add(stream, time) {
    this.number += 1;
    const line = { number: this.number, stream, time, text: '', style: this.style[stream] };
    this.lines.push(line);
    this.open[stream] = line;
    return line;
  }

  grow(line, text) {
    const before = line.text.length;
    // A line that is written over and over, as progress bars are, is what was written last.
    const whole = line.text + text;
    const back = whole.lastIndexOf('\r', whole.length - 2);
    line.text = back < 0 ? whole : whole.slice(back + 1);
    this.characters += line.text.length - before;
  }

  close(stream) {
    const line = this.open[stream];
    if (!line) return;
    if (line.text.endsWith('\r')) line.text = line.text.slice(0, -1);
    if (line.text.includes('\x1b')) this.style[stream] = spans(line.text, line.style).style;
    this.open[stream] = undefined;
  }

  trim() {
    if (this.lines.length <= KEPT_LINES * 1.1 && this.characters <= KEPT_CHARACTERS * 1.1) return;
    let count = Math.max(0, this.lines.length - KEPT_LINES);
    for (let at = 0; at < count; at += 1) this.characters -= this.lines[at].text.length;
    while (this.characters > KEPT_CHARACTERS && count < this.lines.length - 1) {
      this.characters -= this.lines[count].text.length;
      count += 1;
    }
    this.lines.splice(0, count);
    this.dropped += count;
  }
}
