// Clients and sister services of the original, made of its published library, against running servers.
//
// Started by test_dropin.py in a folder with node_modules; the servers and tokens come as JSON in argv[2].
// Prints one JSON line per case: {"case", "failed": null | reason}.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import path from 'node:path';

const require = createRequire(path.join(process.cwd(), 'any.js'));
const published = path.dirname(require.resolve('@venizia/ignis-helpers/package.json'));
// The files themselves: the package's index imports parts that only run on Bun.
const { ECDH } = require(path.join(published, 'dist/modules/crypto/algorithms/ecdh.algorithm.js'));
const { RedisHelper } = require(path.join(published, 'dist/modules/redis/single.helper.js'));
const { WebSocketEmitter } = require(path.join(published, 'dist/modules/socket/websocket/emitter/helper.js'));
const WebSocket = require('ws');

const PATIENCE_MS = 15_000; // one answer, on a loaded machine
const settings = JSON.parse(process.argv[2]);
const [here, there] = settings.instances; // two that share Redis: {url, streamUrl, pid}

async function until(condition, what) {
  const deadline = Date.now() + PATIENCE_MS;
  while (!(await condition())) {
    assert(Date.now() < deadline, `waited in vain for ${what()}`);
    await new Promise(resolve => setTimeout(resolve, 5));
  }
}

// --- an old client ---

class Client {
  constructor(instance = here, { protocols = [] } = {}) {
    this.plain = []; // frames that were not sealed
    this.frames = []; // what the sealed ones held, in their order
    this.closed = null; // [code, reason]
    this.ecdh = ECDH.withAlgorithm();
    this.opening = Promise.resolve();
    this.trouble = null;
    this.socket = new WebSocket(instance.streamUrl, protocols);
    this.socket.on('message', raw => {
      // Opening is asynchronous: one after the other keeps the order in which they came.
      this.opening = this.opening.then(() => this.receive(raw)).catch(error => (this.trouble ??= error));
    });
    this.socket.on('close', (code, reason) => (this.closed = [code, reason.toString()]));
    this.socket.on('error', error => (this.trouble ??= error));
  }

  async receive(raw) {
    const message = JSON.parse(raw.toString());
    if (message.event === 'encrypted') {
      const opened = await this.ecdh.decrypt({ message: message.data, secret: this.key });
      this.frames.push(JSON.parse(opened));
      return;
    }
    this.plain.push(message);
    if (message.event === 'connected') {
      this.id = message.data.id;
      this.key = await this.deriveKey(message.data);
    }
  }

  async deriveKey({ serverPublicKey, salt }) {
    const peerPublicKey = await this.ecdh.importPublicKey({ rawKeyB64: serverPublicKey });
    const { privateKey } = this.keys.keyPair;
    return (await this.ecdh.deriveAESKey({ privateKey, peerPublicKey, salt })).key;
  }

  async open() {
    await this.wait(() => this.socket.readyState === WebSocket.OPEN, 'the upgrade');
    return this;
  }

  async authenticate(token, more = {}) {
    this.keys = await this.ecdh.generateKeyPair();
    const data = { type: 'Bearer', token, publicKey: this.keys.publicKeyB64, ...more };
    for (const [name, value] of Object.entries(more)) if (value === undefined) delete data[name];
    this.send('authenticate', data);
  }

  send(event, data) {
    this.socket.send(JSON.stringify(data === undefined ? { event } : { event, data }));
  }

  async sendSealed(event, data) {
    this.send('encrypted', await this.ecdh.encrypt({ message: JSON.stringify({ event, data }), secret: this.key }));
  }

  wait(condition, what) {
    return until(
      () => {
        if (this.trouble) throw this.trouble;
        return condition();
      },
      () => `${what}; there are ${JSON.stringify([...this.plain, ...this.frames])}, closed ${this.closed}`,
    );
  }

  take() {
    return this.frames.splice(0);
  }

  // Whatever was sent before is answered before this is.
  async settle() {
    this.send('no such event');
    await this.wait(() => this.frames.some(isSettled), 'an answer');
    this.frames = this.frames.filter(frame => !isSettled(frame));
  }

  async ended() {
    await this.wait(() => this.closed, 'the close');
    await this.opening;
    return this.closed;
  }

  async leave() {
    this.socket.close();
    await this.ended();
  }
}

const isSettled = ({ event, data }) => event === 'error' && data.message === 'Encryption required';
const listeners = async channel => (await redis.getClient().pubsub('NUMSUB', channel))[1];

async function connected(user, instance = here, options = {}) {
  const client = await new Client(instance, options).open();
  await client.authenticate(settings.tokens[user]);
  await client.wait(() => client.key, '`connected`');
  // Redis does not notify publishers of a subscription, so a sister service has to poll for it, too.
  await until(() => listeners(`ws:client:${client.id}`), () => 'the subscription of a client');
  return client;
}

async function joined(client, room, instances = 1) {
  client.send('join', { rooms: [room] });
  await until(async () => (await listeners(`ws:room:${room}`)) === instances, () => 'the subscription of a room');
  await client.settle();
}

// --- a sister service ---

// Redis keeps the order of one publisher: what was sent before these has arrived, or never will.
async function expect(expected) {
  for (const [client] of expected) await emitter.toClient({ clientId: client.id, event: 'fence', data: {} });
  for (const [client, events] of expected) {
    await client.wait(() => client.frames.at(-1)?.event === 'fence', 'the fence');
    assert.deepEqual(client.take().slice(0, -1), events);
    assert.equal(client.plain.length, 1);
  }
}

const redis = new RedisHelper({ name: 'dropin', ...settings.redis });
const emitter = new WebSocketEmitter({ identifier: 'dropin', redisConnection: redis });

// --- the cases ---

const cases = {
  async the_handshake_gives_what_the_library_derives_its_key_from() {
    const client = await connected('ann');
    const { event, data } = client.plain[0];
    assert.equal(event, 'connected');
    assert.deepEqual(Object.keys(data).sort(), ['id', 'salt', 'serverPublicKey', 'time', 'userId']);
    assert.match(data.id, /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
    assert.equal(data.userId, 'ann');
    assert.equal(new Date(data.time).toISOString(), data.time);
    assert.equal(Buffer.from(data.salt, 'base64').length, 32);
    assert.equal(Buffer.from(data.serverPublicKey, 'base64').length, 65);
    await client.leave();
  },

  async the_first_offered_subprotocol_is_echoed_and_no_compression_is_negotiated() {
    const client = await new Client(here, { protocols: ['signal.v1', 'other'] }).open();
    assert.equal(client.socket.protocol, 'signal.v1');
    assert.equal(client.socket.extensions, '');
    await client.leave();
  },

  async to_a_client_reaches_that_client_alone() {
    const [ann, again, far] = await Promise.all([connected('ann'), connected('ann'), connected('ann', there)]);
    const first = { event: 'order/updated', data: { id: '1', note: 'chào 👋', price: 1.5, tags: [] } };
    const second = { event: 'order/updated', data: null };
    await emitter.toClient({ clientId: ann.id, ...first });
    await emitter.toClient({ clientId: far.id, ...second });
    await expect([[ann, [first]], [again, []], [far, [second]]]);
    await Promise.all([ann.leave(), again.leave(), far.leave()]);
  },

  async to_a_user_reaches_each_of_its_clients_and_nobody_else() {
    const [near, far, other] = await Promise.all([connected('ann'), connected('ann', there), connected('binh')]);
    const sent = { event: 'profile/changed', data: { name: 'Ann' } };
    await emitter.toUser({ userId: 'ann', ...sent });
    await expect([[near, [sent]], [far, [sent]], [other, []]]);
    await Promise.all([near.leave(), far.leave(), other.leave()]);
  },

  async to_a_room_reaches_its_members_except_the_excluded() {
    const [ann, binh, far, out] = await Promise.all([
      connected('ann'), connected('binh'), connected('chi', there), connected('chi'),
    ]);
    await joined(ann, 'public/sale');
    await joined(binh, 'public/sale');
    await joined(far, 'public/sale', 2);
    const all = { event: 'sale/started', data: { percent: 10 } };
    const some = { event: 'sale/started', data: { percent: 20 } };
    await emitter.toRoom({ room: 'public/sale', ...all });
    await emitter.toRoom({ room: 'public/sale', ...some, exclude: [binh.id, far.id] });
    await expect([[ann, [all, some]], [binh, [all]], [far, [all]], [out, []]]);
    await Promise.all([ann.leave(), binh.leave(), far.leave(), out.leave()]);
  },

  async the_default_rooms_and_the_own_room_need_no_join() {
    const [ann, far] = await Promise.all([connected('ann'), connected('binh', there)]);
    const sent = data => ({ event: 'room/message', data });
    await emitter.toRoom({ room: 'ws-default', ...sent(1) });
    await emitter.toRoom({ room: 'ws-notification', ...sent(2) });
    await emitter.toRoom({ room: 'signal/notification/ann', ...sent(3) });
    await emitter.toRoom({ room: far.id, ...sent(4) });
    await expect([[ann, [sent(1), sent(2), sent(3)]], [far, [sent(1), sent(2), sent(4)]]]);
    await Promise.all([ann.leave(), far.leave()]);
  },

  async a_broadcast_reaches_everybody_who_is_authenticated() {
    const [ann, far, silent] = await Promise.all([
      connected('ann'), connected('binh', there), new Client(there).open(),
    ]);
    const sent = { event: 'maintenance', data: { at: '2026-01-01T00:00:00Z' } };
    await emitter.broadcast(sent);
    await expect([[ann, [sent]], [far, [sent]]]);
    assert.deepEqual([...silent.plain, ...silent.frames], []);
    await Promise.all([ann.leave(), far.leave(), silent.leave()]);
  },

  async a_thousand_sends_arrive_in_order() {
    const [ann, far] = await Promise.all([connected('ann'), connected('ann', there)]);
    const sent = Array.from({ length: 1000 }, (_, n) => ({ event: 'tick', data: { n } }));
    const ways = [
      each => emitter.toUser({ userId: 'ann', ...each }),
      each => emitter.toRoom({ room: 'signal/notification/ann', ...each }),
      each => emitter.broadcast(each),
    ];
    await Promise.all(sent.map((each, n) => ways[n % 3](each)));
    await expect([[ann, sent], [far, sent]]);
    await Promise.all([ann.leave(), far.leave()]);
  },

  async plain_heartbeats_are_taken_and_not_answered() {
    const ann = await connected('ann');
    for (let n = 0; n < 5; n++) ann.send('heartbeat');
    await ann.settle();
    assert.deepEqual(ann.take(), []);
    assert.equal(ann.plain.length, 1);
    await ann.leave();
  },

  async plain_join_and_leave_are_taken() {
    const [ann, binh] = await Promise.all([connected('ann'), connected('binh')]);
    await joined(ann, 'signal/merchant/m1');
    await joined(binh, 'public/a');
    await joined(ann, 'public/a');
    const sent = data => ({ event: 'room/message', data });
    await emitter.toRoom({ room: 'signal/merchant/m1', ...sent(1) });
    await emitter.toRoom({ room: 'public/a', ...sent(2) });
    await expect([[ann, [sent(1), sent(2)]], [binh, [sent(2)]]]);
    ann.send('leave', { rooms: ['public/a', 'never joined'] });
    await ann.settle();
    await emitter.toRoom({ room: 'public/a', ...sent(3) });
    await expect([[ann, []], [binh, [sent(3)]]]);
    await Promise.all([ann.leave(), binh.leave()]);
  },

  async rooms_of_others_stay_closed_and_the_allowed_ones_are_joined() {
    const [ann, chi] = await Promise.all([connected('ann'), connected('chi')]);
    const others = ['signal/notification/chi', 'signal/merchant/m2', 'signal/organizer/o2', chi.id, 'ws:broadcast', 'any'];
    ann.send('join', { rooms: [...others, 'public/b'] });
    await ann.settle();
    await until(() => listeners('ws:room:public/b'), () => 'the subscription of the allowed room');
    assert.deepEqual(ann.take().map(frame => frame.event), ['error']);
    const sent = { event: 'room/message', data: 1 };
    for (const room of [...others, 'public/b']) await emitter.toRoom({ room, ...sent });
    // Chi gets it in its inbox room and its own.
    await expect([[ann, [sent]], [chi, [sent, sent]]]);
    await Promise.all([ann.leave(), chi.leave()]);
  },

  async a_notification_arrives_as_the_old_clients_know_it() {
    const [near, far] = await Promise.all([connected('ann'), connected('chi', there)]);
    const activity = {
      eventType: 'PAYMENT_SUCCESS', eventId: 'dropin', recipientScope: 'users', recipientIds: ['ann'],
      actorId: 'binh', actor: { id: 'binh', name: 'Binh', type: 'USER' }, organizerId: 'o1',
      data: { payment: { subject: 'Order 1', amount: 1000, currency: 'VND' } }, occurredAt: '2026-01-01T10:00:00Z',
    };
    const answer = await fetch(`${here.url}/v1/api/signal/activities`, {
      method: 'POST',
      headers: { authorization: `Bearer ${settings.tokens.op}`, 'content-type': 'application/json' },
      body: JSON.stringify(activity),
    });
    assert.equal(answer.status, 202);
    await near.wait(() => near.frames.length, 'the notification');
    const [{ event, data }] = near.take();
    assert.equal(event, 'observation/signal/notification/created');
    const { id, type, organizerId, content, actionUrl, isRead, createdAt } = data;
    assert.match(id, /^\d+$/);
    assert.deepEqual([type, organizerId, isRead], ['PAYMENT_SUCCESS', 'o1', false]);
    assert(content.includes('Order 1') && (actionUrl === null || typeof actionUrl === 'string'));
    assert.equal(typeof data.data, 'object');
    assert.equal(new Date(createdAt).toISOString(), createdAt);
    await expect([[near, []], [far, []]]);
    await Promise.all([near.leave(), far.leave()]);
  },

  async frames_sealed_by_the_library_are_opened() {
    const ann = await connected('ann');
    await ann.sendSealed('resume', { rev: 0 });
    await ann.wait(() => ann.frames.some(({ event }) => event.endsWith('/state')), 'a state');
    ann.take();
    await ann.sendSealed('join', { rooms: ['public/sealed'] });
    await until(() => listeners('ws:room:public/sealed'), () => 'the subscription');
    await ann.leave();
  },

  async binary_frames_with_the_same_json_are_taken() {
    const ann = await new Client().open();
    ann.keys = await ann.ecdh.generateKeyPair();
    const data = { type: 'Bearer', token: settings.tokens.ann, publicKey: ann.keys.publicKeyB64 };
    ann.socket.send(Buffer.from(JSON.stringify({ event: 'authenticate', data })), { binary: true });
    await ann.wait(() => ann.key, '`connected`');
    await ann.settle();
    await ann.leave();
  },

  async errors_before_the_handshake_keep_their_texts() {
    const client = await new Client().open();
    client.socket.send('{"event":');
    client.socket.send('{}'); // no event: no answer
    client.send('heartbeat'); // no answer
    client.send('join', { rooms: ['public/a'] });
    client.send('anything');
    const texts = ['Invalid message format', 'Not authenticated', 'Not authenticated'];
    await client.wait(() => client.plain.length === 3, 'three errors');
    assert.deepEqual(client.plain, texts.map(message => ({ event: 'error', data: { message } })));
    await client.leave();
  },

  async errors_after_the_handshake_keep_their_texts() {
    const ann = await connected('ann');
    await ann.authenticate(settings.tokens.ann);
    ann.send('chat', { text: 'plain' });
    ann.send('encrypted', { iv: 'AAAAAAAAAAAAAAAA', ct: 'AAAAAAAAAAAAAAAAAAAAAA==' });
    ann.socket.send('not json');
    const texts = ['Already authenticated', 'Encryption required', 'Encryption required', 'Invalid message format'];
    await ann.wait(() => ann.frames.length === 4, 'four errors');
    assert.deepEqual(ann.take(), texts.map(message => ({ event: 'error', data: { message } })));
    await ann.leave();
  },

  async a_refused_handshake_keeps_its_texts_and_close_codes() {
    const refusals = [
      [{ token: 'no token' }, 'Authentication failed', [4003, 'Authentication failed']],
      [{ token: undefined }, 'Authentication failed', [4003, 'Authentication failed']],
      [{ publicKey: undefined }, 'Encryption handshake failed', [4004, 'Encryption required']],
      [{ publicKey: 'bm8gcG9pbnQ=' }, 'Authentication error', [4003, 'Authentication failed']],
    ];
    for (const [more, message, closed] of refusals) {
      const client = await new Client().open();
      await client.authenticate(settings.tokens.ann, more);
      assert.deepEqual(await client.ended(), closed);
      assert.deepEqual(client.plain, [{ event: 'error', data: { message } }]);
    }
  },

  async who_does_not_authenticate_is_closed_with_4001_after_5_s() {
    const client = await new Client().open();
    const began = Date.now();
    assert.deepEqual(await client.ended(), [4001, 'Authentication timeout']);
    assert(Date.now() - began > 4_500);
    assert.deepEqual(client.plain, []);
  },

  async a_message_above_128_KB_is_closed_with_1009() {
    const [fits, toobig] = await Promise.all([connected('ann'), connected('ann')]);
    const envelope = JSON.stringify({ event: 'heartbeat', data: '' }).length;
    fits.send('heartbeat', 'x'.repeat(131_072 - envelope));
    await fits.settle();
    toobig.send('heartbeat', 'x'.repeat(131_073 - envelope));
    assert.equal((await toobig.ended())[0], 1009);
    await fits.leave();
  },

  async a_stop_closes_with_1001() {
    const [ann, far] = await Promise.all([connected('ann'), connected('ann', there)]);
    process.kill(there.pid, 'SIGTERM');
    assert.deepEqual(await far.ended(), [1001, 'Server shutting down']);
    await expect([[ann, []]]);
    await ann.leave();
  },
};

await emitter.configure();
for (const [name, run] of Object.entries(cases)) {
  let failed = null;
  try {
    await run();
  } catch (error) {
    failed = error.stack ?? String(error);
  }
  console.log(JSON.stringify({ case: name, failed }));
}
process.exit(0);
