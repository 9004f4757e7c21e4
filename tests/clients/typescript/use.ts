// Uses the types that openapi-typescript made of the relay's description.
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

declare const process: { env: Record<string, string> };

const client = createClient<paths>({
  baseUrl: process.env.RELAY_URL,
  headers: { Authorization: `Bearer ${process.env.RELAY_TOKEN}` },
});

function ok<T>({ data, error }: { data?: T; error?: unknown }): T {
  if (data === undefined) throw new Error(JSON.stringify(error));
  return data;
}

function expect(truth: boolean, what: unknown) {
  if (!truth) throw new Error(JSON.stringify(what));
}

// Endpoints.
const endpoint = ok(
  await client.POST("/v1/endpoints", {
    body: { url: "http://127.0.0.1:9/hook", types: ["ts.*"], paused: true },
  }),
);
const path = { id: endpoint.id };
const changed = ok(await client.PATCH("/v1/endpoints/{id}", { params: { path }, body: { max_in_flight: 7 } }));
expect(changed.max_in_flight === 7, changed);
const listed: components["schemas"]["Endpoints"] = ok(await client.GET("/v1/endpoints"));
expect(listed.endpoints.some(({ id }) => id === endpoint.id), listed);

// Events: in short, whole, with a key, in a batch, as data alone.
ok(await client.POST("/v1/events", { body: { type: "ts.short", id: "ts-1", data: { n: 1 } } }));
const whole = { specversion: "1.0", source: "/ts", type: "ts.whole" } as const;
const headers = { "Content-Type": "application/cloudevents+json" };
ok(await client.POST("/v1/events", { headers, body: { ...whole, id: "ts-2", subject: null, time: null } }));
const keyed = { "Idempotency-Key": "ts-key" };
const [first, again] = [
  await client.POST("/v1/events", { headers, params: { header: keyed }, body: whole }),
  await client.POST("/v1/events", { headers, params: { header: keyed }, body: whole }),
];
expect(ok(first).id === ok(again).id && again.response.headers.get("Idempotent-Replayed") === "true", again);
const batch = ok(await client.POST("/v1/batches", { body: [{ ...whole, id: "ts-3" }, { ...whole, id: "ts-4" }] }));
expect(batch.ids.join() === "ts-3,ts-4", batch);
ok(
  await client.POST("/v1/events", {
    headers: { "Content-Type": "text/plain" },
    params: { header: { "ce-specversion": "1.0", "ce-id": "ts-5", "ce-source": "/ts", "ce-type": "ts.binary", "ce-time": "2026-01-31T09:30:00Z" } },
    body: "as it is",
    bodySerializer: (body) => body,
  }),
);

// A callback.
const callback = { url: "http://127.0.0.1:9/job" };
const job = ok(await client.POST("/v1/events", { body: { type: "job.started", subject: "job-1", callback } }));
expect(job.callback?.secret?.startsWith("whsec_") === true, job);

// Errors are typed too.
const { error, response } = await client.POST("/v1/events", { body: { type: "a.*" } });
expect(response.status === 400 && error?.field === "type", error);

// The feed, by two types that are sent one by one.
const met: string[] = [];
let after: string | undefined;
while (met.length < 5) {
  const query = { types: ["ts.whole", "ts.binary"], after, wait: "20s" };
  const feed = ok(await client.GET("/v1/feed", { params: { query } }));
  met.push(...feed.events.map(({ event }) => event.id));
  after = feed.next;
}
expect(["ts-2", "ts-3", "ts-4", "ts-5", ok(first).id].every((id) => met.includes(id)), met);
const event = ok(await client.GET("/v1/events/{id}", { params: { path: { id: "ts-1" } } }));
expect(event.deliveries[0].state === "pending" && event.event.type === "ts.short", event);
const deliveries = ok(await client.GET("/v1/deliveries", { params: { query: { endpoint: endpoint.id, state: "pending" } } }));
expect(deliveries.deliveries.length > 0, deliveries);
const access = ok(await client.POST("/v1/access-tokens", { body: { types: ["ts.*"], expires_in: "1h" } }));
expect(access.access_token.length > 0, access);
const { response: removed } = await client.DELETE("/v1/endpoints/{id}", { params: { path } });
expect(removed.status === 204, removed.status);
console.log("all of it works");
