//! A bounded reader over untrusted bytes, little-endian (our own formats) and big-endian
//! (Kafka's record batches), and the matching writers over a `Vec<u8>`.
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
    ($($name:ident $name_be:ident $type:ty;)*) => {
        $(
            pub fn $name(&mut self, what: &'static str) -> Result<$type, DecodeError> {
                Ok(<$type>::from_le_bytes(self.array(what)?))
            }
            pub fn $name_be(&mut self, what: &'static str) -> Result<$type, DecodeError> {
                Ok(<$type>::from_be_bytes(self.array(what)?))
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

    readers! {
        u8 u8_be u8;
        i8 i8_be i8;
        u16 u16_be u16;
        i16 i16_be i16;
        u32 u32_be u32;
        i32 i32_be i32;
        u64 u64_be u64;
        i64 i64_be i64;
        u128 u128_be u128;
    }

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

    /// Kafka's zigzag varint of at most 32 bits (as in protobuf's sint32).
    pub fn varint(&mut self, what: &'static str) -> Result<i32, DecodeError> {
        let error = self.error(what);
        let value = self.varlong(what)?;
        i32::try_from(value).map_err(|_| error)
    }

    /// Kafka's zigzag varint of at most 64 bits.
    pub fn varlong(&mut self, what: &'static str) -> Result<i64, DecodeError> {
        let error = self.error(what);
        let mut raw = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8(what)?;
            if shift == 63 && byte > 1 {
                return Err(error);
            }
            raw |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((raw >> 1) as i64 ^ -((raw & 1) as i64));
            }
        }
        Err(error)
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
    fn varlong_round_trips_at_the_edges() {
        for value in [0, -1, 1, 63, -64, 64, i64::MAX, i64::MIN, i64::from(i32::MIN)] {
            let mut out = Vec::new();
            put_varlong(&mut out, value);
            let mut reader = Reader::new(&out);
            assert_eq!(reader.varlong("value"), Ok(value));
            assert_eq!(reader.remaining(), 0);
        }
    }

    #[test]
    fn counts_are_bounded_by_the_input() {
        let bytes = u32::MAX.to_le_bytes();
        assert!(Reader::new(&bytes).count_u32(1, "count").is_err());
    }
}
