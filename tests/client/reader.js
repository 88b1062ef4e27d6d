// Prints what a durable consumer of NATS' own client for Node reads, one event a line.
// NODE_PATH=.../node_modules node reader.js URL COUNT
const { connect, AckPolicy } = require("nats");

const INTEGERS = /"(ts_event_ns|ts_recv_ns|seq)":(\d+)/g;
function parseEvent(text) {
  const quoted = text.replace(INTEGERS, '"$1":"$2"');
  return JSON.parse(quoted, (key, value) =>
    /^(ts_event_ns|ts_recv_ns|seq)$/.test(key) && value !== null ? BigInt(value) : value);
}

async function main(url, count) {
  const client = await connect({ servers: url });
  const manager = await client.jetstreamManager();
  await manager.consumers.add("MARKET_DATA", { durable_name: "node", ack_policy: AckPolicy.Explicit });
  const consumer = await client.jetstream().consumers.get("MARKET_DATA", "node");
  let left = count;
  for await (const message of await consumer.consume()) {
    const text = message.string();
    const event = parseEvent(text);
    console.log([event.ts_event_ns, event.ts_recv_ns, event.seq, JSON.parse(text).ts_event_ns].join(" "));
    message.ack();
    if (--left === 0) break;
  }
  await client.drain();
}

main(process.argv[2], Number(process.argv[3]));
