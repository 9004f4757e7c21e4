"""Uses the client that openapi-python-client made of the relay's description."""

import os
from io import BytesIO

from relay_client import AuthenticatedClient, models
from relay_client.api.deliveries import list_deliveries
from relay_client.api.endpoints import change_endpoint, create_endpoint, list_endpoints, remove_endpoint
from relay_client.api.events import list_events, publish, publish_batch, show_event
from relay_client.api.feed import create_access_token, read_feed
from relay_client.types import File

client = AuthenticatedClient(
    base_url=os.environ["RELAY_URL"], token=os.environ["RELAY_TOKEN"], raise_on_unexpected_status=True
)


def ok(answer, kind):
    assert isinstance(answer, kind), answer
    return answer


# Endpoints.
new = models.NewEndpoint(url="http://127.0.0.1:9/hook", types=["py.*"], paused=True)
endpoint = ok(create_endpoint.sync(client=client, body=new), models.CreatedEndpoint)
change = models.EndpointChange(max_in_flight=7)
changed = ok(change_endpoint.sync(endpoint.id, client=client, body=change), models.Endpoint)
assert changed.max_in_flight == 7, changed
listed = ok(list_endpoints.sync(client=client), models.Endpoints)
assert endpoint.id in [one.id for one in listed.endpoints], listed


# Events: in short, whole, with a key, in a batch, as data alone.
def accepted(body, **parameters):
    answer = publish.sync_detailed(client=client, body=body, **parameters)
    return ok(answer.parsed, models.Accepted).id, answer.headers.get("Idempotent-Replayed")


def whole(kind, **attributes):
    return kind.from_dict({"specversion": "1.0", "source": "/py", "type": "py.whole", **attributes})


accepted(models.EventInShort.from_dict({"type": "py.short", "id": "py-1", "data": {"n": 1}}))
accepted(whole(models.EventToPublish, id="py-2", subject=None, time=None))
key, _ = accepted(whole(models.EventToPublish), idempotency_key="py-key")
assert accepted(whole(models.EventToPublish), idempotency_key="py-key") == (key, "true")
batch = publish_batch.sync(client=client, body=[whole(models.CloudEvent, id=f"py-{n}") for n in (3, 4)])
assert ok(batch, models.AcceptedBatch).ids == ["py-3", "py-4"], batch
accepted(
    File(payload=BytesIO(b"as it is")),
    ce_specversion="1.0",
    ce_id="py-5",
    ce_source="/py",
    ce_type="py.binary",
    ce_time="2026-01-31T09:30:00Z",
)

# A callback.
job = {"type": "job.started", "subject": "job-1", "callback": {"url": "http://127.0.0.1:9/job"}}
job = ok(publish.sync(client=client, body=models.EventInShort.from_dict(job)), models.Accepted)
assert job.callback.secret.startswith("whsec_"), job

# What is wrong is typed too.
refused = publish.sync(client=client, body=models.EventInShort.from_dict({"type": "a.*"}))
assert ok(refused, models.Problem).field == "type", refused

# The feed, by two types that are sent one by one.
met, after = [], {}
while len(met) < 5:
    feed = read_feed.sync(client=client, types=["py.whole", "py.binary"], wait="20s", **after)
    met += [item.event.id for item in ok(feed, models.Feed).events]
    after = {"after": feed.next_}
assert sorted(met) == sorted(["py-2", key, "py-3", "py-4", "py-5"]), met
event = ok(show_event.sync("py-1", client=client), models.EventInFull)
assert event.deliveries[0].state == "pending" and event.event.type_ == "py.short", event
waiting = list_deliveries.sync(client=client, endpoint=endpoint.id, state=models.DeliveryState.PENDING)
assert ok(waiting, models.Deliveries).deliveries, waiting
events = ok(list_events.sync(client=client, types=["py.*"], since="1h"), models.Events)
assert len(events.events) == 6, events
grant = models.AccessGrant(types=["py.*"], expires_in="1h")
assert ok(create_access_token.sync(client=client, body=grant), models.AccessToken).access_token
assert remove_endpoint.sync_detailed(endpoint.id, client=client).status_code == 204
print("all of it works")
