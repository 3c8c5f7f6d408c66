// The WebSocket: requests with their answers, frames, and connecting again for as long as it takes.

const FIRST_WAIT = 500;
const LONGEST_WAIT = 5000;
const ANSWER_TIME = 100000; // completing a large bag takes its time; a node that is silent is reported earlier

export class Link extends EventTarget {
  // Events: 'open', 'lost' (detail: {seconds, text}), 'message' (detail: object), 'frame' (detail: ArrayBuffer).

  constructor() {
    super();
    this.number = 0;
    this.waiting = new Map();
    this.wait = FIRST_WAIT;
    this.socket = null;
  }

  connect() {
    const scheme = location.protocol === 'https:' ? 'wss:' : 'ws:';
    const socket = new WebSocket(`${scheme}//${location.host}/socket`);
    socket.binaryType = 'arraybuffer';
    this.socket = socket;
    socket.onopen = () => {
      this.wait = FIRST_WAIT;
      this.emit('open');
    };
    socket.onmessage = (event) => this.take(event.data);
    socket.onclose = (event) => this.lose(event);
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
    const settle = this.waiting.get(message.request);
    if (settle !== undefined && (message.type === 'reply' || message.type === 'refused')) {
      this.waiting.delete(message.request);
      settle({success: false, ...message});
    } else {
      this.emit('message', message);
    }
  }

  async lose(event) {
    const text = 'The connection to the console was lost before the answer came.';
    for (const settle of this.waiting.values()) settle({success: false, message: text});
    this.waiting.clear();
    const seconds = this.wait / 1000;
    this.emit('lost', {seconds, text: await this.reason(event)});
    setTimeout(() => this.connect(), this.wait);
    this.wait = Math.min(LONGEST_WAIT, this.wait * 2);
  }

  // A browser does not tell a page why a WebSocket was refused; an ordinary request does.
  async reason(event) {
    try {
      const response = await fetch('/style.css', {cache: 'no-store'});
      if (response.status === 401) {
        return 'The console wants its token: open it as http://ADDRESS:PORT/?token=TOKEN.';
      }
    } catch {
      return 'The console server cannot be reached: is web_console running?';
    }
    return event.reason ? `The console ended the connection: ${event.reason}.` : 'The connection to the console was lost.';
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
