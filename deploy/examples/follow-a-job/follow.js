"use strict";

/**
 * Follows the events that an access token lets read: by a stream, and by polling where there is no stream to
 * be had. Each event comes once, oldest first, whatever is cut or restarted in between.
 *
 * relay        where it is, such as http://127.0.0.1:7400
 * accessToken  of POST /v1/access-tokens
 * onEvent      is given each event (a CloudEvent); says true when it was the last
 * onState      is told "streaming", "reconnecting", "polling", "ended", or "refused" and why
 */
function follow({ relay, accessToken, onEvent, onState = () => {} }) {
  if (!relay) return onState("refused", "this page was not told where the relay is");
  if (!accessToken) return onState("refused", "this page was given no access token");

  // After this event we go on; at first, with the oldest that is kept.
  let cursor = "start";
  let ended = false;

  const address = (path, parameters) =>
    `${relay}${path}?${new URLSearchParams({ access_token: accessToken, after: cursor, ...parameters })}`;

  function take(at, event) {
    cursor = at;
    if (onEvent(event)) {
      ended = true;
      onState("ended");
    }
  }

  // A browser comes back to a stream that was cut by itself, and says which event it had last. It hears events
  // that have a name only by that name, so they come without: what the access token reads may be of any type.
  function stream() {
    const source = new EventSource(address("/v1/stream", { names: "off" }));
    source.onmessage = (message) => {
      take(message.lastEventId, JSON.parse(message.data));
      if (ended) source.close();
    };
    source.onopen = () => onState("streaming");
    source.onerror = () => {
      if (source.readyState !== EventSource.CLOSED) return onState("reconnecting");
      // Something on the way lets no stream through, or the token has expired: the feed says which.
      poll();
    };
  }

  async function poll() {
    onState("polling");
    while (!ended) {
      const { status, pause, body } = await ask();
      if (status === 200) {
        for (const item of body.events) {
          if (!ended) take(item.cursor, item.event);
        }
        cursor = body.next;
      } else if (status >= 400 && status < 500) {
        return onState("refused", body.detail);
      }
      if (!ended) await new Promise((resolve) => setTimeout(resolve, pause * 1000));
    }
  }

  // One poll, which the relay holds until there is something. A relay that is away is asked again.
  async function ask() {
    const pause = 2;
    try {
      const answer = await fetch(address("/v1/feed", { wait: "20s" }), { cache: "no-store" });
      const body = await answer.json();
      return { status: answer.status, pause: Number(answer.headers.get("Retry-After") ?? pause), body };
    } catch {
      return { status: 0, pause };
    }
  }

  if ("EventSource" in window) stream();
  else poll();
}
