//! Pieces that several bodies share: failures, lists, the frame around a body.
//!
//! Floor 3.

use crate::base::cursor::put_text;
use crate::base::{DecodeError, Reader};
use crate::model::{ErrorCode, Failure};

use super::header::{HEADER_BYTES, Header};

/// Longest explanation that travels with an error; longer ones are cut.
const FAILURE_TEXT_BYTES_MAX: usize = 4096;

/// Appends `header`, then what `body` writes, and accounts for `bytes_after` more bytes that the
/// caller sends behind it.
pub(super) fn frame(out: &mut Vec<u8>, header: &Header, bytes_after: usize, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    body(out);
    let body_bytes = out.len() - start - HEADER_BYTES + bytes_after;
    let body_bytes = u32::try_from(body_bytes).expect("frames are bounded far below 4 GiB");
    out[start..start + HEADER_BYTES].copy_from_slice(&Header { body_bytes, ..*header }.encode());
}

macro_rules! puts {
    ($($name:ident $type:ty;)*) => {
        $(pub(super) fn $name(out: &mut Vec<u8>, value: $type) {
            out.extend_from_slice(&value.to_le_bytes());
        })*
    };
}

puts! { put_u16 u16; put_i16 i16; put_u32 u32; put_u64 u64; put_i64 i64; put_u128 u128; }

pub(super) fn put_count(out: &mut Vec<u8>, count: usize) {
    put_u32(out, u32::try_from(count).expect("lists are bounded far below 2^32"));
}

/// `i16 code | u16 reserved | u32 retry after ms | text`; code 0 means "no failure".
pub(super) fn put_failure(out: &mut Vec<u8>, failure: Option<&Failure>) {
    let code = failure.map_or(0, |failure| failure.code as i16);
    put_i16(out, code);
    put_u16(out, 0);
    put_u32(out, failure.map_or(0, |failure| failure.retry_after_ms));
    put_text(out, failure.map_or("", |failure| cut(&failure.text, FAILURE_TEXT_BYTES_MAX)));
}

/// Least bytes of a failure.
pub(super) const FAILURE_BYTES: usize = 10;

pub(super) fn failure(reader: &mut Reader) -> Result<Option<Failure>, DecodeError> {
    let number = reader.i16("error code")?;
    reader.u16("error reserved")?;
    let retry_after_ms = reader.u32("error retry after")?;
    let text = reader.text("error text")?;
    if number == 0 {
        return Ok(None);
    }
    Ok(Some(match ErrorCode::from_number(number) {
        Some(code) => Failure { code, text: text.to_owned(), retry_after_ms },
        // A newer broker may know more codes.
        None => Failure {
            code: ErrorCode::UnknownServerError,
            text: format!("error {number}: {text}"),
            retry_after_ms,
        },
    }))
}

/// The longest prefix of `text` of at most `bytes_max` bytes that is still text.
fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A byte that must be 0 or 1.
pub(super) fn flag(reader: &mut Reader, what: &'static str) -> Result<bool, DecodeError> {
    let error = reader.error(what);
    match reader.u8(what)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(error),
    }
}
