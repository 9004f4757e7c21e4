//! What the API is, for programs: the OpenAPI document. Each operation is described at its handler, and
//! the router is made of the same descriptions, so there is no route without one.

pub(crate) mod problems;
pub(crate) mod types;

use axum::{Extension, http::header, response::IntoResponse};
use bytes::Bytes;
use utoipa::{
    IntoResponses, OpenApi as _,
    openapi::{
        OpenApi, RefOr, Schema, Type,
        path::{Operation, PathItem},
        schema::SchemaType,
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};

/// The names of the security schemes.
pub(crate) const TOKEN: &str = "token";
pub(crate) const ACCESS_TOKEN: &str = "access_token";

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Event relay",
        description = "Publish an event once to RabbitMQ, and every consumer gets it as a signed webhook. \
            Every error is a problem document (RFC 9457). Lists are answered in pages: `next` is the \
            `cursor` of the next, and null at the end. Bodies of requests may be compressed \
            (`Content-Encoding: gzip`), and so are answers to clients that accept it.",
    ),
    tags(
        (name = "events", description = "Publish events, read them in the log, and send them again."),
        (name = "feed", description = "The log forwards, for consumers that fetch their events: in pages, as a stream, over a WebSocket."),
        (name = "deliveries", description = "What became of an event on its way to an endpoint."),
        (name = "endpoints", description = "Who gets which events, and where."),
        (name = "description", description = "This document."),
    ),
    components(schemas(
        crate::problem::Document<'_>,
        crate::events::CallbackFields,
        crate::events::CallbackEndpoint,
        types::DeliveryState,
        types::EndpointId,
        types::EventId,
        types::ConsumerName,
        types::Moment,
        types::Names,
        types::TypePattern,
        types::WebhookId,
    )),
)]
struct Description;

/// The document, as it is served.
#[derive(Clone)]
pub(crate) struct Document(Bytes);

impl Document {
    pub(crate) fn of(api: &OpenApi) -> Self {
        Self(api.to_json().unwrap_or_default().into())
    }
}

/// What stands beside all routes.
pub(crate) fn base() -> OpenApi {
    let mut api = Description::openapi();
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(
            "The relay's token. A relay that was started without one needs none.",
        ))
        .build();
    api.info.license = None;
    let components = api.components.get_or_insert_default();
    components.add_security_scheme(TOKEN, SecurityScheme::Http(scheme));
    let in_query = ApiKeyValue::with_description(
        "access_token",
        "An access token (RFC 6750, section 2.3), for browsers: it reads the events that match its own \
            filter, so `types`, `source` and `subject` may not stand beside it. It may be sent as \
            `Authorization: Bearer` instead.",
    );
    let access_token = SecurityScheme::ApiKey(ApiKey::Query(in_query));
    components.add_security_scheme(ACCESS_TOKEN, access_token);
    api
}

/// Notes that all of these operations need one of these, and what any of them may end in.
pub(crate) fn behind(api: &mut OpenApi, schemes: &[&str]) {
    for operation in api.paths.paths.values_mut().flat_map(operations_mut) {
        let either = schemes
            .iter()
            .map(|scheme| SecurityRequirement::new(*scheme, [""; 0]));
        operation.security = Some(either.collect());
        let responses = &mut operation.responses.responses;
        responses.extend(problems::OfAll::responses());
        absent_is_not_null(operation);
    }
}

/// What may be left out, a parameter or a body, cannot be `null` instead.
fn absent_is_not_null(operation: &mut Operation) {
    for parameter in operation.parameters.iter_mut().flatten() {
        if let RefOr::T(parameter) = parameter {
            not_null(&mut parameter.schema);
        }
    }
    if let Some(RefOr::T(body)) = &mut operation.request_body {
        for content in body.content.values_mut() {
            if let RefOr::T(content) = content {
                not_null(&mut content.schema);
            }
        }
    }
}

fn not_null(schema: &mut Option<RefOr<Schema>>) {
    match schema {
        Some(RefOr::T(Schema::OneOf(either))) => {
            either.items.retain(|item| !is_null(item));
            if let [only] = &either.items[..] {
                *schema = Some(only.clone());
            }
        }
        Some(RefOr::T(Schema::Object(object))) => {
            if let SchemaType::Array(types) = &object.schema_type
                && let [only, Type::Null] = &types[..]
            {
                object.schema_type = SchemaType::Type(only.clone());
            }
        }
        _ => {}
    }
}

fn is_null(schema: &RefOr<Schema>) -> bool {
    let null = SchemaType::Type(Type::Null);
    matches!(schema, RefOr::T(Schema::Object(object)) if object.schema_type == null)
}

/// Each operation's path, method and statuses of success.
pub(crate) fn successes(api: &OpenApi) -> Vec<(String, &'static str, String)> {
    let mut successes = Vec::new();
    for (path, item) in &api.paths.paths {
        for (method, operation) in operations(item) {
            let statuses = operation.responses.responses.keys();
            let good = statuses.filter(|status| status.starts_with('2'));
            successes.extend(good.map(|status| (path.clone(), method, status.clone())));
        }
    }
    successes
}

fn operations(item: &PathItem) -> impl Iterator<Item = (&'static str, &Operation)> {
    [
        ("GET", &item.get),
        ("POST", &item.post),
        ("PUT", &item.put),
        ("PATCH", &item.patch),
        ("DELETE", &item.delete),
    ]
    .into_iter()
    .filter_map(|(method, operation)| Some((method, operation.as_ref()?)))
}

fn operations_mut(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [
        &mut item.get,
        &mut item.post,
        &mut item.put,
        &mut item.patch,
        &mut item.delete,
    ]
    .into_iter()
    .flatten()
}

/// Describe the API.
///
/// This document. It needs no token.
#[utoipa::path(
    get, path = "/v1/openapi.json", operation_id = "describe", tag = "description",
    responses((status = 200, body = types::OpenApiDocument, description = "An OpenAPI 3.1 document.")),
)]
pub(crate) async fn show(Extension(Document(json)): Extension<Document>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], json)
}
