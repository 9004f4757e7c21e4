//! Many events in one JSON array: section 4 of the JSON format.

use std::fmt;

use bytes::Bytes;
use serde::{
    Deserializer,
    de::{DeserializeSeed, IgnoredAny, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{Event, without_byte_order_mark};
use crate::Invalid;

impl Event {
    /// Takes a batch apart into the bytes of its events, each as it came and still to be read by
    /// [`Event::parse`]; nothing is copied. Also tells how many there are, for `most` of them at the
    /// most are returned.
    ///
    /// # Errors
    /// It is no JSON array.
    pub fn split_batch(batch: &Bytes, most: usize) -> Result<(Vec<Bytes>, usize), Invalid> {
        let mut reader = serde_json::Deserializer::from_slice(without_byte_order_mark(batch));
        let split = Slices { most }
            .deserialize(&mut reader)
            .and_then(|split| reader.end().map(|()| split));
        let (events, count) = split.map_err(|error| {
            Invalid::new("batch", format!("must be a JSON array of CloudEvents: {error}"))
        })?;
        let bytes = |event: &RawValue| batch.slice_ref(event.get().as_bytes());
        Ok((events.into_iter().map(bytes).collect(), count))
    }
}

/// Reads the first values of an array, and counts all: a short batch can hold very many of them.
struct Slices {
    most: usize,
}

impl<'de> DeserializeSeed<'de> for Slices {
    type Value = (Vec<&'de RawValue>, usize);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Slices {
    type Value = (Vec<&'de RawValue>, usize);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
        let mut events = Vec::new();
        while events.len() < self.most {
            let Some(event) = array.next_element()? else {
                break;
            };
            events.push(event);
        }
        let mut count = events.len();
        while array.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok((events, count))
    }
}
