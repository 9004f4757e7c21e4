// A receiver as tutorials write it: the raw body, its HMAC, the time, the sender's address, repeated deliveries.
// WEBHOOK_SECRET is the endpoint's secret; CLOCK_AHEAD_MS sets this receiver's clock ahead.
import { createServer } from 'node:http';
import { createHmac, timingSafeEqual } from 'node:crypto';

const secret = process.env.WEBHOOK_SECRET;
const ahead = Number(process.env.CLOCK_AHEAD_MS ?? 0);
const senders = ['127.0.0.1', '::ffff:127.0.0.1'];
const seen = new Set();

function check(request, body) {
  if (!senders.includes(request.socket.remoteAddress)) return [403, 'unknown sender'];
  const given = Buffer.from(request.headers['x-webhook-signature'] ?? '', 'utf8');
  const expected = Buffer.from(createHmac('sha256', secret).update(body).digest('hex'), 'utf8');
  if (given.length !== expected.length || !timingSafeEqual(given, expected)) return [401, 'wrong signature'];
  const sent = new Date(request.headers['x-webhook-timestamp']);
  if (Math.abs(Date.now() + ahead - sent) > 5 * 60 * 1000) return [400, 'too old'];
  const id = request.headers['x-webhook-delivery'];
  if (seen.has(id)) return [200, 'repeated'];
  seen.add(id);
  return [200, `taken: ${JSON.parse(body).type}`];
}

const server = createServer((request, response) => {
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  request.on('end', () => {
    const [status, says] = check(request, Buffer.concat(chunks));
    console.log(says);
    response.writeHead(status, { 'content-type': 'text/plain' }).end(says);
  });
});
server.listen(0, '127.0.0.1', () => console.log(`listening on ${server.address().port}`));
