//! A bounded reader over untrusted bytes, little-endian as our own formats are, and writers over a `Vec<u8>`.
//!
//! Floor 0. A `Reader` never panics and never allocates; it answers a `DecodeError` that names
//! what was being read and where.

/// Untrusted bytes that are not what they claim to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {what} at byte {position}")]
pub struct DecodeError {
    pub what: &'static str,
    /// Byte from the start of the decoded input.
    pub position: usize,
}

/// A position in untrusted bytes.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

macro_rules! readers {
    ($($name:ident)*) => {
        $(
            pub fn $name(&mut self, what: &'static str) -> Result<$name, DecodeError> {
                Ok(<$name>::from_le_bytes(self.array(what)?))
            }
        )*
    };
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes, position: 0 }
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Bytes not read yet.
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    pub fn error(&self, what: &'static str) -> DecodeError {
        DecodeError { what, position: self.position }
    }

    /// The next `count` bytes, borrowed.
    pub fn bytes(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        if count > self.remaining() {
            return Err(self.error(what));
        }
        let slice = &self.bytes[self.position..self.position + count];
        self.position += count;
        Ok(slice)
    }

    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let slice = self.bytes(N, what)?;
        let mut array = [0; N];
        array.copy_from_slice(slice);
        Ok(array)
    }

    readers! { u8 i8 u16 i16 u32 i32 u64 i64 u128 }

    /// A count of elements of at least `bytes_each` that must still fit in the input, so that a
    /// `Vec::with_capacity` of it is bounded by the input's length.
    pub fn count_u32(&mut self, bytes_each: usize, what: &'static str) -> Result<usize, DecodeError> {
        let error = self.error(what);
        let count = self.u32(what)? as usize;
        match count.checked_mul(bytes_each.max(1)) {
            Some(bytes) if bytes <= self.remaining() => Ok(count),
            _ => Err(error),
        }
    }

    /// UTF-8 text behind a u16 length.
    pub fn text(&mut self, what: &'static str) -> Result<&'a str, DecodeError> {
        let error = self.error(what);
        let length = self.u16(what)? as usize;
        std::str::from_utf8(self.bytes(length, what)?).map_err(|_| error)
    }

    /// Asserts that nothing is left.
    pub fn finish(&self, what: &'static str) -> Result<(), DecodeError> {
        if self.remaining() == 0 { Ok(()) } else { Err(self.error(what)) }
    }
}

/// Appends Kafka's zigzag varint of up to 64 bits (also used for 32-bit values).
pub fn put_varlong(out: &mut Vec<u8>, value: i64) {
    let mut raw = ((value << 1) ^ (value >> 63)) as u64;
    while raw >= 0x80 {
        out.push(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
}

/// Appends UTF-8 text behind a u16 length. The caller has bounded the text.
pub fn put_text(out: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).expect("texts are bounded before they are encoded");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_bounded_by_the_input() {
        let bytes = u32::MAX.to_le_bytes();
        assert!(Reader::new(&bytes).count_u32(1, "count").is_err());
    }
}
