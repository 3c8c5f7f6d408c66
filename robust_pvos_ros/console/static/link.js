// The WebSocket: requests with their answers, frames, and connecting again for as long as it takes.

const FIRST_WAIT = 500;
const LONGEST_WAIT = 5000;
const LATER = 1013; // the code of an end by which the console asks to come back later
const LATER_WAIT = 15000;
const ANSWER_TIME = 100000; // completing a large bag takes its time; a node that is silent is reported earlier
const SILENCE = 10000; // the console gives a sign of life every three seconds
const TICK = 1000;
const PROBE_TIME = 3000;
const LOST = 'The connection to the console was lost.';

export class Link extends EventTarget {
  // Events: 'open', 'lost' (detail: {seconds, text}; once more when the reason is known better), 'message' (detail:
  // object), 'frame' (detail: ArrayBuffer).

  constructor() {
    super();
    this.number = 0;
    this.waiting = new Map();
    this.wait = FIRST_WAIT;
    this.socket = null; // null between two attempts
    this.greeted = false;
    this.heard = 0;
    this.ticked = performance.now();
    this.losses = 0;
    this.reason = '';
    setInterval(() => this.tick(), TICK);
  }

  connect() {
    const scheme = location.protocol === 'https:' ? 'wss:' : 'ws:';
    const socket = new WebSocket(`${scheme}//${location.host}/socket`);
    socket.binaryType = 'arraybuffer';
    this.socket = socket;
    this.heard = performance.now();
    socket.onmessage = (event) => {
      this.heard = performance.now();
      this.take(event.data);
    };
    socket.onclose = ({code, reason}) => this.lose(code, reason && `The console ended the connection: ${reason}.`);
  }

  // A connection whose network is gone stays open for minutes, and so does an attempt that nobody answers.
  tick() {
    const present = performance.now();
    if (present - this.ticked > 3 * TICK) this.heard = present; // the page slept: that says nothing about the console
    this.ticked = present;
    if (this.socket === null || present - this.heard < SILENCE) return;
    this.socket.onmessage = this.socket.onclose = null;
    this.socket.close();
    this.lose(0, `Nothing has come from the console for ${SILENCE / 1000} s.`);
  }

  emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, {detail}));
  }

  take(data) {
    if (data instanceof ArrayBuffer) {
      this.emit('frame', data);
      return;
    }
    const message = JSON.parse(data);
    if (message.type === 'alive') return;
    // A console that has no room opens a connection, too, but greets nobody on it.
    if (message.type === 'hello') {
      this.greeted = true;
      this.wait = FIRST_WAIT;
      this.reason = '';
      this.emit('open');
    }
    const settle = this.waiting.get(message.request);
    if (settle !== undefined && (message.type === 'reply' || message.type === 'refused')) {
      this.waiting.delete(message.request);
      settle({success: false, ...message});
    } else {
      this.emit('message', message);
    }
  }

  // `reason` is a sentence, or empty where nothing is known; the one of an earlier attempt holds until then.
  lose(code, reason) {
    this.socket = null;
    this.greeted = false;
    this.losses += 1;
    const text = 'The connection to the console was lost before the answer came.';
    for (const settle of this.waiting.values()) settle({success: false, message: text});
    this.waiting.clear();
    if (code === LATER) this.wait = LATER_WAIT;
    const seconds = this.wait / 1000;
    this.reason = reason || this.reason || LOST;
    setTimeout(() => this.connect(), this.wait);
    this.wait = Math.min(LONGEST_WAIT, this.wait * 2);
    this.emit('lost', {seconds, text: this.reason});
    if (!reason) this.probe(seconds);
  }

  // A browser does not tell a page why a WebSocket was refused; an ordinary request does.
  async probe(seconds) {
    const loss = this.losses;
    const reason = await this.refusal();
    if (this.greeted || loss !== this.losses || reason === this.reason) return;
    this.reason = reason;
    this.emit('lost', {seconds, text: reason});
  }

  async refusal() {
    try {
      const response = await fetch('/style.css', {cache: 'no-store', signal: AbortSignal.timeout(PROBE_TIME)});
      if (response.status !== 401) return LOST;
      return 'The console wants its token: open it as http://ADDRESS:PORT/?token=TOKEN.';
    } catch {
      return 'The console server cannot be reached: is web_console running?';
    }
  }

  say(message) {
    if (this.socket !== null && this.socket.readyState === WebSocket.OPEN) {
      this.socket.send(JSON.stringify(message));
      return true;
    }
    return false;
  }

  // Resolves to {success, message, ...}; never rejects.
  request(type, fields) {
    this.number += 1;
    const request = this.number;
    return new Promise((resolve) => {
      if (!this.say({type, request, ...fields})) {
        resolve({success: false, message: 'There is no connection to the console.'});
        return;
      }
      const late = setTimeout(() => {
        this.waiting.delete(request);
        resolve({success: false, message: 'The console did not answer in time.'});
      }, ANSWER_TIME);
      this.waiting.set(request, (answer) => {
        clearTimeout(late);
        resolve(answer);
      });
    });
  }
}
