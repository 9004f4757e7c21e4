//! The sizes of an event beyond which it is refused, all in one place.

use crate::invalid::{Given, Invalid};

/// Levels that an event's `data` may nest.
pub const MAX_DEPTH: usize = 64;

/// Members of the event's JSON object.
pub const MAX_MEMBERS: usize = 1_000;

/// Members of an event that was let in before, perhaps by a version that did not count them.
pub const MAX_MEMBERS_OF_OLD: usize = 100_000;

/// Bytes of an attribute's value, unless it has a limit of its own below.
pub const MAX_ATTRIBUTE_BYTES: usize = 8 * 1024;

/// Bytes of an attribute's name.
pub const MAX_NAME_BYTES: usize = 64;

/// Bytes of an `id`.
pub const MAX_ID_BYTES: usize = 1024;

/// Bytes of a `source`.
pub const MAX_SOURCE_BYTES: usize = 1024;

/// Bytes of a `subject`: events are looked up by it.
pub const MAX_SUBJECT_BYTES: usize = 1024;

/// Bytes of a `type`: RabbitMQ's limit for a routing or binding key.
pub const MAX_TYPE_BYTES: usize = 255;

/// Checks an attribute's length in bytes.
pub(crate) fn check_length(name: &str, text: &str, most: usize) -> Result<(), Invalid> {
    if text.len() <= most {
        return Ok(());
    }
    let (size, given) = (text.len(), Given(text));
    Err(Invalid::new(
        name,
        format!("must have at most {most} bytes, not {size}: {given}"),
    ))
}
