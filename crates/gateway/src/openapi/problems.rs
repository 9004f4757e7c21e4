//! The errors of operations, by what they take.

use std::collections::BTreeMap;

use utoipa::{
    IntoResponses,
    openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder},
};

macro_rules! problems {
    ($($(#[$doc:meta])* $name:ident { $($status:literal: $description:literal,)+ })+) => { $(
        $(#[$doc])*
        pub(crate) enum $name {}

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                BTreeMap::from([$((stringify!($status).to_owned(), problem($description)),)+])
            }
        }
    )+ };
}

problems! {
    /// Of every operation behind the token.
    OfAll {
        401: "There is no valid token, or the access token has expired.",
        403: "An access token does not allow this; nor may a page of another origin open a socket at a relay \
            without a token.",
        414: "The path and query are too long.",
        429: "Too many wrong tokens came from the address, or the token has too many streams, sockets and waiting \
            requests; `Retry-After` says when to come again.",
        500: "The relay failed; its log says more.",
        503: "The broker or the store cannot be used at the moment, or the broker did not confirm, or the relay \
            has too many requests at once: the same request may be sent again.",
    }

    /// Of parameters.
    Refused {
        400: "A parameter was refused; `field` names it.",
    }

    /// The refusal of a request that is no handshake of a WebSocket.
    NoHandshake {
        426: "It is no handshake of a WebSocket, or not of version 13.",
    }

    /// Of a body.
    RefusedBody {
        400: "A parameter or a part of the body was refused, and `field` names it; or the body is no JSON, or no whole gzip.",
        408: "The body took too long to arrive.",
        413: "The body is too large.",
        415: "The body's media type is none of these; or its `Content-Encoding` is not `gzip`, which `Accept-Encoding` then names.",
    }

    /// Of a cursor of the feed.
    CursorExpired {
        410: "Events after the cursor are forgotten; `oldest` is the cursor to go on with.",
    }

    /// Of a named consumer.
    NoSuchConsumer {
        404: "There is no such consumer.",
    }

    /// Of an event's id.
    NoSuchEvent {
        404: "There is no such event in the log; one that was just published is there in a moment.",
    }

    /// Of an endpoint's id.
    NoSuchEndpoint {
        404: "There is no such endpoint.",
    }

    /// Of both.
    NoSuchEventOrEndpoint {
        404: "There is no such event in the log, or no such endpoint.",
    }
}

fn problem(description: &str) -> RefOr<Response> {
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("Problem")))
        .build();
    ResponseBuilder::new()
        .description(description)
        .content("application/problem+json", content)
        .build()
        .into()
}
