//! The object `callback` beside an event in short form, which is no part of the event.

use bytes::Bytes;
use serde_json::value::RawValue;

use super::{Attributes, Event, Fill, bare, push_given};
use crate::{Invalid, limits::MAX_MEMBERS};

/// The member's name.
pub(super) const NAME: &str = "callback";

/// The refusal of a whole CloudEvent with such an object.
pub(super) const IN_WHOLE_EVENT: &str = "cannot be an object in a whole CloudEvent: only an event in short form may \
    have a callback (POST /v1/events as application/json); or add an endpoint with the event's `source` and `subject` \
    first, and leave this out";

impl Event {
    /// Reads an event as [`Event::complete`] does, and the object `callback` that may stand beside its attributes.
    /// The object is no part of the event. A `callback` of any other kind is an attribute.
    ///
    /// # Errors
    /// As [`Event::parse`].
    pub fn complete_with_callback(body: Bytes, fill: &Fill) -> Result<(Self, Option<Bytes>), Invalid> {
        let body = bare(body);
        let mut attributes = Attributes::read(&body, MAX_MEMBERS)?;
        let Some(callback) = attributes.take_object(NAME) else {
            return Ok((Self::filled(&body, &attributes, fill)?, None));
        };
        let event = Self::complete(attributes.to_json(), fill)?;
        Ok((event, Some(body.slice_ref(callback.get().as_bytes()))))
    }
}

impl<'a> Attributes<'a> {
    fn take_object(&mut self, name: &str) -> Option<&'a RawValue> {
        let is_it = |(given, value): &(_, &RawValue)| given == name && value.get().starts_with('{');
        let place = self.0.iter().position(is_it)?;
        Some(self.0.remove(place).1)
    }

    /// Writes the object anew, with every value byte for byte.
    fn to_json(&self) -> Bytes {
        let mut json = String::from("{");
        for (name, value) in &self.0 {
            if json.len() > 1 {
                json.push(',');
            }
            push_given(&mut json, name, value);
        }
        json.push('}');
        json.into()
    }
}
