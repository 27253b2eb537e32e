// A client of the stream's version 2 for browsers and Node.js 20, over WebCrypto and WebSocket alone: docs/stream-v2.md.
//
//   const stream = new Stream('wss://signal.example.com/stream', {
//     token, serverKeys: await publishedKeys('https://signal.example.com'),
//     onFrame: ({ event, data }) => …, onClose: ({ code, reason }) => …,
//   });
//   const { userId } = await stream.connected;
//   stream.send('join', { rooms: ['signal/merchant/m1'] });

const PROTOCOL = 'Noise_NX_25519_AESGCM_SHA256';
const LABEL = 'nx-signal stream 2';
const [TO_SERVER, TO_CLIENT] = [1, 2];
const [MORE, LAST] = [0, 1];
const LONGEST = 65_535;
const TAG = 16;
const REKEY_AFTER = 2 ** 20;
const HEARTBEAT_MS = 30_000; // the server closes after 90 s without a message
const REFRESHED = 'observation/signal/stream/refreshed';
export const NOT_AUTHENTIC = [4010, 'Message not authentic'];

const subtle = globalThis.crypto.subtle;
const utf8 = text => new TextEncoder().encode(text);
const base64 = bytes => btoa(String.fromCharCode(...bytes));
const unbase64 = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
const unbase64url = text => unbase64(text.replaceAll('-', '+').replaceAll('_', '/'));
const same = (one, other) => one.length === other.length && one.every((byte, at) => byte === other[at]);

function concat(...parts) {
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  parts.reduce((at, part) => (whole.set(part, at), at + part.length), 0);
  return whole;
}

function bigEndian(n) { // 8 bytes
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(n));
  return bytes;
}

/** The keys that a server publishes for the stream: as good as the TLS that they come over. */
export async function publishedKeys(origin) {
  const answer = await fetch(`${origin}/.well-known/jwks.json`, { redirect: 'error' });
  const { keys } = await answer.json();
  return keys.filter(key => key.kty === 'OKP' && key.crv === 'X25519' && key.use === 'enc').map(key => unbase64url(key.x));
}

// --- Noise ------------------------------------------------------------------------------------------

async function hmac(key, data) {
  const imported = await subtle.importKey('raw', key, { name: 'HMAC', hash: 'SHA-256' }, false, ['sign']);
  return new Uint8Array(await subtle.sign('HMAC', imported, data));
}

async function hkdf(chainingKey, material) {
  const secret = await hmac(chainingKey, material);
  const first = await hmac(secret, Uint8Array.of(1));
  return [first, await hmac(secret, concat(first, Uint8Array.of(2)))];
}

export class CipherState {
  constructor(key) {
    this.key = subtle.importKey('raw', key, 'AES-GCM', false, ['encrypt', 'decrypt']);
    this.n = 0; // below 2^53 for any connection
  }

  async #run(operation, nonce, ad, data) {
    const algorithm = { name: 'AES-GCM', iv: concat(new Uint8Array(4), nonce), additionalData: ad };
    return new Uint8Array(await subtle[operation](algorithm, await this.key, data));
  }

  async encrypt(ad, data) {
    return this.#run('encrypt', bigEndian(this.n++), ad, data);
  }

  async decrypt(ad, data) {
    const opened = await this.#run('decrypt', bigEndian(this.n), ad, data);
    this.n++;
    return opened;
  }

  async rekey() {
    const sealed = await this.#run('encrypt', new Uint8Array(8).fill(255), new Uint8Array(), new Uint8Array(32));
    this.key = subtle.importKey('raw', sealed.slice(0, 32), 'AES-GCM', false, ['encrypt', 'decrypt']);
  }
}

/** The client's side of Noise NX: `begin` gives its message, `finish` takes the server's. */
export class Handshake {
  constructor(prologue, ephemeral) {
    this.prologue = prologue;
    this.ephemeral = ephemeral; // { privateKey, publicBytes }, in tests
  }

  async begin() {
    if (!this.ephemeral) {
      const pair = await subtle.generateKey({ name: 'X25519' }, false, ['deriveBits']);
      this.ephemeral = { privateKey: pair.privateKey, publicBytes: new Uint8Array(await subtle.exportKey('raw', pair.publicKey)) };
    }
    this.ck = this.h = concat(utf8(PROTOCOL), new Uint8Array(32 - PROTOCOL.length));
    await this.#mixHash(utf8(this.prologue));
    await this.#mixHash(this.ephemeral.publicBytes);
    await this.#mixHash(new Uint8Array()); // the empty payload
    return this.ephemeral.publicBytes;
  }

  /** Throws for a message that was not made for this connection, and for a key that is not among `trusted`. */
  async finish(message, trusted) {
    if (message.length !== 96) throw new Error('The server\'s handshake message has not 96 bytes.');
    const re = message.slice(0, 32);
    await this.#mixHash(re);
    await this.#mixKey(re); // ee
    const rs = await this.#decryptAndHash(message.slice(32, 80));
    await this.#mixKey(rs); // es
    await this.#decryptAndHash(message.slice(80)); // the empty payload: the server has the key of rs
    if (!trusted.some(key => same(key, rs))) throw new Error('The server proves a key that is not the one expected of it.');
    const [toServer, toClient] = await hkdf(this.ck, new Uint8Array());
    return [new CipherState(toServer), new CipherState(toClient)];
  }

  async #mixHash(data) {
    this.h = new Uint8Array(await subtle.digest('SHA-256', concat(this.h, data)));
  }

  async #mixKey(publicBytes) {
    const peer = await subtle.importKey('raw', publicBytes, { name: 'X25519' }, false, []);
    const secret = await subtle.deriveBits({ name: 'X25519', public: peer }, this.ephemeral.privateKey, 256);
    const [ck, key] = await hkdf(this.ck, new Uint8Array(secret)); // deriveBits refuses a secret of zeros
    this.ck = ck;
    this.cipher = new CipherState(key);
  }

  async #decryptAndHash(data) {
    const opened = await this.cipher.decrypt(this.h, data);
    await this.#mixHash(data);
    return opened;
  }
}

// --- sealed messages ----------------------------------------------------------------------------------

const associated = (direction, part, n) => concat(utf8(LABEL), Uint8Array.of(direction, part), bigEndian(n));

export async function seal(cipher, text) {
  const plain = utf8(text);
  const parts = [];
  for (let at = 0; at === 0 || at < plain.length; at += LONGEST - TAG) {
    const part = at + LONGEST - TAG >= plain.length ? LAST : MORE;
    parts.push(await cipher.encrypt(associated(TO_SERVER, part, cipher.n), plain.slice(at, at + LONGEST - TAG)));
    if (cipher.n % REKEY_AFTER === 0) await cipher.rekey();
  }
  return concat(...parts);
}

export async function open(cipher, sealed) {
  const parts = [];
  for (let at = 0; at === 0 || at < sealed.length; at += LONGEST) {
    const part = at + LONGEST >= sealed.length ? LAST : MORE;
    parts.push(await cipher.decrypt(associated(TO_CLIENT, part, cipher.n), sealed.slice(at, at + LONGEST)));
    if (cipher.n % REKEY_AFTER === 0) await cipher.rekey();
  }
  return new TextDecoder().decode(concat(...parts));
}

// --- one connection -----------------------------------------------------------------------------------

export class Stream {
  #socket;
  #token;
  #resume;
  #type;
  #trusted;
  #onFrame;
  #handshake = new Handshake('nx-signal stream;offered:2;chosen:2');
  #sending; // CipherState, once the server is known
  #receiving;
  #read = Promise.resolve(); // messages are opened, and sealed, one after the other
  #written = Promise.resolve();
  #heartbeat;
  #failed = false;
  #resolve;
  #reject;

  /** `type`: Ticket where `token` is a ticket. `resume`: { rev, history } of the last frame that was seen, where there was one. */
  constructor(url, { token, type = 'Bearer', serverKeys, resume, onFrame = () => {}, onClose = () => {} }) {
    this.#type = type;
    [this.#token, this.#trusted, this.#resume, this.#onFrame] = [token, serverKeys, resume, onFrame];
    this.connected = new Promise((resolve, reject) => ([this.#resolve, this.#reject] = [resolve, reject]));
    this.#socket = new WebSocket(url);
    this.#socket.binaryType = 'arraybuffer';
    this.#socket.onopen = () => this.#hello();
    this.#socket.onmessage = ({ data }) => {
      this.#read = this.#read.then(() => this.#take(data)).catch(error => this.#fail(error));
    };
    this.#socket.onclose = ({ code, reason }) => {
      this.#reject(new Error(`The connection was closed with ${code}: ${reason}`));
      clearInterval(this.#heartbeat);
      onClose({ code, reason });
    };
  }

  /** Resolves once it is written. After a `refresh` the next message has a new key. */
  send(event, data) {
    const sent = this.#written.then(async () => {
      this.#socket.send(await seal(this.#sending, JSON.stringify({ event, data })));
      if (event === 'refresh') await this.#sending.rekey();
    });
    this.#written = sent.catch(() => {}); // one that cannot be sent does not stop the next
    return sent;
  }

  close() {
    this.#socket.close(1000);
  }

  async #hello() {
    const message = base64(await this.#handshake.begin());
    this.#socket.send(JSON.stringify({ event: 'hello', data: { versions: [2], message } }));
  }

  async #take(message) {
    if (this.#failed) return; // also what was received before the failure was found
    if (!this.#receiving) return this.#answer(JSON.parse(message));
    if (typeof message === 'string') throw new Error('The server sent a frame that is not sealed.');
    const frame = JSON.parse(await open(this.#receiving, new Uint8Array(message)));
    if (frame.event === REFRESHED) await this.#receiving.rekey();
    if (frame.event === 'connected') {
      this.#heartbeat = setInterval(() => this.send('heartbeat'), HEARTBEAT_MS);
      this.#resolve(frame.data);
    }
    queueMicrotask(() => this.#onFrame(frame)); // what it throws is not a fault of the message
  }

  async #answer({ event, data }) {
    if (event !== 'hello' || data.version !== 2) throw new Error(data?.message ?? 'The server does not choose version 2.');
    [this.#sending, this.#receiving] = await this.#handshake.finish(unbase64(data.message), this.#trusted);
    await this.send('authenticate', { type: this.#type, token: this.#token, resume: this.#resume });
  }

  #fail(error) {
    this.#reject(error);
    this.#failed = true;
    this.#socket.close(...NOT_AUTHENTIC);
  }
}
