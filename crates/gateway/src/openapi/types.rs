//! The types of the domain under the names the document gives them. They are never values: the views
//! of requests and answers name them by `value_type`.
#![expect(dead_code, reason = "descriptions, not values")]

use std::borrow::Cow;

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        AllOfBuilder, KnownFormat, Object, ObjectBuilder, Ref, RefOr, SchemaFormat, Type,
        schema::{AdditionalProperties, AnyOfBuilder, ArrayBuilder, Schema, SchemaType},
    },
};

use crate::{access::Grant, fields::Fields};

/// The id of an event, chosen by its producer: any text of 1 to 1,024 bytes without control characters and
/// noncharacters. With the source it names the event.
#[derive(ToSchema)]
#[schema(value_type = String, min_length = 1, max_length = 1024, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]+$", examples("0198f2a4-6a5c-7bb2-9d35-1f0e8f1c2a3b"))]
pub(crate) struct EventId(String);

/// The id that receivers know an event by, as the header `webhook-id` has it. It is the event's own where that
/// consists of `A-Z`, `a-z`, `0-9`, `_` and `-` only and the source is `/relay`; otherwise it is derived from
/// source and id.
#[derive(ToSchema)]
#[schema(value_type = String, min_length = 1, max_length = 1024, pattern = "^[A-Za-z0-9_-]+$", examples("0198f2a4-6a5c-7bb2-9d35-1f0e8f1c2a3b", "order-42_1f0e8f1c2a3b4c5d"))]
pub(crate) struct WebhookId(String);

/// The id of an endpoint.
#[derive(ToSchema)]
#[schema(value_type = String, pattern = "^ep_[0-9a-f]{32}$", examples("ep_0198f2a46a5c7bb29d351f0e8f1c2a3b"))]
pub(crate) struct EndpointId(String);

/// The id of an attempt.
#[derive(ToSchema)]
#[schema(value_type = String, pattern = "^at_[0-9a-f]{32}$", examples("at_0198f2a46a5c7bb29d351f0e8f1c2a3b"))]
pub(crate) struct AttemptId(String);

/// The source of an event, a URI reference: with the id it names the event.
#[derive(ToSchema)]
#[schema(value_type = String, min_length = 1, max_length = 1024, examples("/orders"))]
pub(crate) struct Source(String);

/// The kind of an event: words separated by dots, of any characters but control characters and
/// noncharacters, at most 255 bytes. None is `*` or `#` alone.
#[derive(ToSchema)]
#[schema(value_type = String, min_length = 1, max_length = 255, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]+$", examples("order.created"))]
pub(crate) struct EventType(String);

/// Which types of events: `*` stands for one word, `#` for any number of words.
#[derive(ToSchema)]
#[schema(value_type = String, min_length = 1, max_length = 255, examples("order.*"))]
pub(crate) struct TypePattern(String);

/// A moment in UTC, to the millisecond.
#[derive(ToSchema)]
#[schema(value_type = String, format = DateTime, examples("2026-01-31T09:30:00.000Z"))]
pub(crate) struct Time(String);

/// An RFC 3339 time such as `2026-01-31T09:30:00Z`, or a span back from now such as `90s`, `1h` or `7d`.
#[derive(ToSchema)]
#[schema(value_type = String, min_length = 1, examples("1h"))]
pub(crate) struct Moment(String);

/// A place in the feed of this relay. It says nothing to anybody else.
#[derive(ToSchema)]
#[schema(value_type = String, min_length = 1, examples("ZmVlZCAwMTIzNDU2Nzg5YWJjZGVmIDE3"))]
pub(crate) struct FeedCursor(String);

/// The name of a consumer: letters, digits, dashes, underscores and dots.
#[derive(ToSchema)]
#[schema(value_type = String, pattern = "^[A-Za-z0-9._-]{1,64}$", examples("billing"))]
pub(crate) struct ConsumerName(String);

/// How long a retry waits: whole seconds, from 1 s to 7 days.
#[derive(ToSchema)]
#[schema(value_type = String, examples("5m"))]
pub(crate) struct Delay(String);

/// A signing secret: `whsec_` and 24 to 64 bytes in base64.
#[derive(ToSchema)]
#[schema(value_type = String, pattern = "^whsec_(?:[A-Za-z0-9+/]{4}){8,20}(?:(?:[A-Za-z0-9+/]{4})?(?:[A-Za-z0-9+/][AQgw]==)?|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)$", examples("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="))]
pub(crate) struct Secret(String);

/// Where deliveries are posted: an http or https URL without fragment, user name or password.
#[derive(ToSchema)]
#[schema(value_type = String, format = "uri", max_length = 2048, examples("https://example.com/hook"))]
pub(crate) struct EndpointUrl(String);

macro_rules! described {
    ($($name:ident: $description:literal, $schema:expr;)+) => { $(
        #[doc = $description]
        pub(crate) enum $name {}

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                RefOr::T($schema.description(Some($description)).build().into())
            }
        }

        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                stringify!($name).into()
            }
        }
    )+ };
}

described! {
    DeliveryState: "How a delivery stands.",
    one_of(relay_event::DeliveryState::ALL.map(relay_event::DeliveryState::as_str));

    DeadReason: "Why a delivery was given up.",
    one_of(relay_event::DeadReason::ALL.map(relay_event::DeadReason::as_str));

    HeldByReason: "The number of deliveries that are held, by reason; a reason without any is absent.",
    relay_event::HoldReason::ALL.into_iter().fold(ObjectBuilder::new(), |object, reason| {
        let count = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1));
        object.property(reason.as_str(), count)
    });

    ErrorClass: "Why an attempt got no usable answer.",
    one_of(relay_event::ErrorClass::ALL.map(relay_event::ErrorClass::as_str));

    SignatureStyle: "How deliveries are signed: as Standard Webhooks has it, or by `X-Webhook-Signature` with an \
     `X-Webhook-Timestamp` in RFC 3339 (`plain`) or in seconds since 1970 (`plain-seconds`).",
    one_of(["standard", "plain", "plain-seconds"]);

    Names: "Whether the messages of a stream are named by their events' types.",
    one_of(["on", "off"]);

    EndpointState: "Whether an endpoint is sent to.",
    one_of(["active", "paused", "disabled"]);

    CloudEvent: "An event as CloudEvents 1.0 has it, in its JSON format. An attribute that is null is not set.",
    cloud_event().required("specversion").required("id").required("source").required("type");

    EventToPublish: "An event as CloudEvents 1.0 has it. Its `id` may be missing beside an `Idempotency-Key`. An \
     attribute that is null is not set.",
    cloud_event()
        .property("id", or_null(Ref::from_schema_name("EventId")))
        .required("specversion")
        .required("source")
        .required("type");

    EventInShort: "An event whose missing `specversion`, `id`, `source` and `time` are filled in. An attribute that \
     is null is missing. An object `callback` is no part of the event.",
    cloud_event()
        .property("specversion", or_null(one_of(["1.0"])))
        .property("id", or_null(Ref::from_schema_name("EventId")))
        .property("source", or_null(Ref::from_schema_name("Source")))
        .property("callback", or_null(Ref::from_schema_name("Callback")))
        .required("type");

    Accepted: "The id of the event, and the endpoint of its callback if it has one.",
    ObjectBuilder::new()
        .property("id", Ref::from_schema_name("EventId"))
        .property("callback", Ref::from_schema_name("CallbackEndpoint"))
        .required("id");

    AcceptedBatch: "The ids of the events, in their order.",
    ObjectBuilder::new()
        .property("ids", ArrayBuilder::new().items(Ref::from_schema_name("EventId")))
        .required("ids");

    AccessGrant: "What a new access token lets read: at least one of `types`, `source` and `subject` says it.",
    AllOfBuilder::new().item(Grant::schema()).item(
        AnyOfBuilder::new()
            .item(given("types", ArrayBuilder::new().items(Ref::from_schema_name("TypePattern"))))
            .item(given("source", ObjectBuilder::new().schema_type(Type::String)))
            .item(given("subject", ObjectBuilder::new().schema_type(Type::String))),
    );

    Data: "The data of an event, as it is.",
    ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)));

    OpenApiDocument: "An OpenAPI document.",
    ObjectBuilder::new().additional_properties(Some(AdditionalProperties::FreeForm(true)));

    NewEndpoint: "An endpoint to add.",
    ObjectBuilder::from(defaults_in_words(fields())).required("url").required("types");

    EndpointChange: "What to change of an endpoint: what is not named stays.",
    ObjectBuilder::from(change(fields()));
}

fn one_of<const N: usize>(values: [&'static str; N]) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(values))
}

/// An object in which this is given, as nothing else than this.
fn given(field: &str, schema: impl Into<RefOr<Schema>>) -> ObjectBuilder {
    ObjectBuilder::new().property(field, schema).required(field)
}

/// The JSON format (section 2.2) has null attributes treated as unset.
fn or_null(schema: impl Into<RefOr<Schema>>) -> AnyOfBuilder {
    let null = ObjectBuilder::new().schema_type(Type::Null);
    AnyOfBuilder::new().item(schema).item(null)
}

fn cloud_event() -> ObjectBuilder {
    let time = ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)));
    ObjectBuilder::new()
        .property("specversion", one_of(["1.0"]))
        .property("id", Ref::from_schema_name("EventId"))
        .property("source", Ref::from_schema_name("Source"))
        .property("type", Ref::from_schema_name("EventType"))
        .property("subject", or_null(ObjectBuilder::new().schema_type(Type::String)))
        .property("time", or_null(time))
        .property("data", ObjectBuilder::new().schema_type(SchemaType::AnyValue))
        .additional_properties(Some(AdditionalProperties::FreeForm(true)))
}

/// What an endpoint is made of.
fn fields() -> Object {
    match Fields::schema() {
        RefOr::T(Schema::Object(object)) => object,
        _ => Object::default(),
    }
}

/// Says in words what a field is if it is not given. Some generators take a field with a default for one that
/// must be there.
fn defaults_in_words(mut fields: Object) -> Object {
    for property in fields.properties.values_mut() {
        let (default, description) = match property {
            RefOr::T(Schema::Object(object)) => (&mut object.default, &mut object.description),
            RefOr::T(Schema::Array(array)) => (&mut array.default, &mut array.description),
            RefOr::Ref(reference) => {
                let words = reference.default.take().map(in_words).unwrap_or_default();
                reference.description.push_str(&words);
                continue;
            }
            RefOr::T(_) => continue,
        };
        if let Some(default) = default.take() {
            description.get_or_insert_default().push_str(&in_words(default));
        }
    }
    fields
}

fn in_words(default: serde_json::Value) -> String {
    format!(" Unless it is given: `{default}`.")
}

/// What of it can be changed; what is not named has no default, but stays.
fn change(mut fields: Object) -> Object {
    fields.properties.remove("secret");
    for property in fields.properties.values_mut() {
        match property {
            RefOr::T(Schema::Object(object)) => object.default = None,
            RefOr::T(Schema::Array(array)) => array.default = None,
            RefOr::Ref(reference) => reference.default = None,
            RefOr::T(_) => {}
        }
    }
    fields
}
