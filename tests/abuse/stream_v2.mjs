// Runs docs/stream-v2.mjs: against the test vectors, and against a server. node stream_v2.mjs vectors FILE | serve JSON
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { Handshake, Stream, open, publishedKeys, seal } from '../../docs/stream-v2.mjs';

const bytes = hex => Uint8Array.from(Buffer.from(hex, 'hex'));
const hex = raw => Buffer.from(raw).toString('hex');

async function ephemeral(secret) {
  const pkcs8 = bytes(`302e020100300506032b656e04220420${secret}`);
  const privateKey = await crypto.subtle.importKey('pkcs8', pkcs8, { name: 'X25519' }, true, ['deriveBits']);
  const { x } = await crypto.subtle.exportKey('jwk', privateKey);
  return { privateKey, publicBytes: Uint8Array.from(Buffer.from(x, 'base64url')) };
}

async function vectors(file) {
  const given = JSON.parse(readFileSync(file, 'utf8'));
  const handshake = new Handshake(given.prologue, await ephemeral(given.clientEphemeralPrivate));
  const hello = JSON.parse(given.clientHello).data;
  assert.equal(Buffer.from(await handshake.begin()).toString('base64'), hello.message);
  const answer = Uint8Array.from(Buffer.from(JSON.parse(given.serverHello).data.message, 'base64'));
  const [sending, receiving] = await handshake.finish(answer, [bytes(given.serverStaticPublic)]);
  assert.equal(hex(handshake.h), given.handshakeHash);
  for (const message of given.messages) {
    const cipher = message.from === 'client' ? sending : receiving;
    cipher.n = message.counter;
    if (message.padded) { // its hash alone is given: not opened here, but counted
      cipher.n += Math.ceil(message.bytes / 65_535);
    } else if (message.from === 'client') {
      assert.equal(hex(await seal(cipher, message.plaintext)), message.sealed);
    } else {
      assert.equal(await open(cipher, bytes(message.sealed)), message.plaintext);
    }
    if (message.thenRekey) await cipher.rekey();
  }
  return { messages: given.messages.length };
}

async function serve({ url, origin, token, later }) {
  const frames = [];
  let wake = () => {};
  const stream = new Stream(url, {
    token,
    serverKeys: await publishedKeys(origin),
    resume: { rev: 0 },
    onFrame: frame => (frames.push(frame), wake()),
  });
  const until = async found => {
    while (!frames.some(found)) await new Promise(resolve => (wake = resolve));
  };
  const connected = await stream.connected;
  await until(frame => frame.event.endsWith('/state'));
  await stream.send('refresh', { token: later });
  await until(frame => frame.event.endsWith('/refreshed'));
  await stream.send('resume', { rev: 0 });
  await until(frame => frame.event.endsWith('/state') && frame !== frames.find(each => each.event.endsWith('/state')));
  stream.close();
  return { userId: connected.userId, events: frames.map(frame => frame.event) };
}

async function exchange({ url, origin, token }) {
  const frames = [];
  let stream;
  const closed = new Promise(onClose => {
    publishedKeys(origin).then(serverKeys => {
      stream = new Stream(url, { token, serverKeys, onFrame: frame => frames.push(frame), onClose });
      stream.connected.then(() => [1, 2, 3].forEach(() => stream.send('authenticate', { token: 'another' })));
    });
  });
  const { code, reason } = await closed;
  return { events: frames.map(frame => frame.event), closed: [code, reason] };
}

async function refuse({ url, token }) {
  const stream = new Stream(url, { token, serverKeys: [new Uint8Array(32)] });
  try {
    await stream.connected;
  } catch (error) {
    return { refused: error.message };
  }
  return { refused: null };
}

const [what, argument] = process.argv.slice(2);
const done = await { vectors, serve: each => serve(JSON.parse(each)), refuse: each => refuse(JSON.parse(each)), exchange: each => exchange(JSON.parse(each)) }[what](argument);
console.log(JSON.stringify(done));
process.exit(0);
