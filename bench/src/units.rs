//! Sizes (`64MiB`) and durations (`5ms`) on the command line, and figures for people.
//!
//! Owner: ringbench. Pure.

use std::str::FromStr;
use std::time::Duration;

/// Bytes, written as `4096`, `64KiB`, `1MiB`, `2GiB`, or decimal `kB`, `MB`, `GB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

const SIZES: [(&str, u64); 10] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("kB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("K", 1 << 10),
    ("M", 1 << 20),
    ("G", 1 << 30),
    ("B", 1),
];

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unit = SIZES.iter().find_map(|(unit, bytes)| text.strip_suffix(unit).map(|rest| (rest, *bytes)));
        let (number, bytes) = unit.unwrap_or((text, 1));
        let number: u64 = number.trim().parse().map_err(|_| "wanted a size such as 1024, 64KiB or 1MiB")?;
        number.checked_mul(bytes).map(Bytes).ok_or_else(|| "too large".into())
    }
}

/// A span of time, written as `5ms`, `60s`, `2m`, or a number of seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let units = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0)];
        let unit =
            units.iter().find_map(|(unit, seconds)| text.strip_suffix(unit).map(|rest| (rest, *seconds)));
        let (number, seconds) = unit.unwrap_or((text, 1.0));
        let number: f64 = number.trim().parse().map_err(|_| "wanted a time such as 5ms, 60s or 2m")?;
        Duration::try_from_secs_f64(number * seconds).map(Span).map_err(|error| error.to_string())
    }
}

/// A size that is not 0.
pub fn some_bytes(text: &str) -> Result<Bytes, String> {
    text.parse()
        .and_then(|bytes: Bytes| if bytes.0 > 0 { Ok(bytes) } else { Err("wanted at least 1 byte".into()) })
}

/// A time that is not 0.
pub fn some_time(text: &str) -> Result<Span, String> {
    let span: Span = text.parse()?;
    if span.0.is_zero() { Err("wanted more than no time at all".into()) } else { Ok(span) }
}

/// Records a second: more than a client can send is a mistake.
pub fn some_rate(text: &str) -> Result<f64, String> {
    above_zero(text, 1e8)
}

/// A part of something, or a multiple of it.
pub fn some_share(text: &str) -> Result<f64, String> {
    above_zero(text, 10.0)
}

fn above_zero(text: &str, most: f64) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| *number > 0.0 && *number <= most);
    number.ok_or_else(|| format!("wanted a number above 0, at most {}", grouped(most)))
}

/// `1234567.8` as `1,234,568`.
pub fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if value < 0.0 { format!("-{out}") } else { out }
}

/// About three digits: `1,234`, `12.3`, `0.81`, `0.004`.
pub fn short(value: f64) -> String {
    let size = value.abs();
    if size >= 100.0 || value.fract() == 0.0 {
        grouped(value)
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else if size >= 0.095 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}

/// `2147483648` as `2 GiB`, `16000` as `16 kB`: bytes as a person wrote them.
pub fn bytes_text(bytes: u64) -> String {
    let units =
        SIZES.iter().filter(|(unit, size)| unit.len() > 1 && *size <= bytes && bytes.is_multiple_of(*size));
    let largest = units.max_by_key(|(_, size)| *size);
    largest.map_or(format!("{bytes} B"), |(unit, size)| format!("{} {unit}", bytes / size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_spans() {
        assert_eq!("64MiB".parse(), Ok(Bytes(64 << 20)));
        assert_eq!("1000".parse(), Ok(Bytes(1000)));
        assert_eq!("2GB".parse(), Ok(Bytes(2_000_000_000)));
        assert!("MiB".parse::<Bytes>().is_err() && "-1".parse::<Bytes>().is_err());
        assert_eq!("5ms".parse(), Ok(Span(Duration::from_millis(5))));
        assert_eq!("1.5s".parse(), Ok(Span(Duration::from_millis(1500))));
        assert_eq!("60".parse(), Ok(Span(Duration::from_secs(60))));
        assert!("soon".parse::<Span>().is_err() && "-1s".parse::<Span>().is_err());
        assert!(some_time("0").is_err() && some_bytes("0KiB").is_err());
        assert_eq!((some_time("2m"), some_bytes("1")), (Ok(Span(Duration::from_secs(120))), Ok(Bytes(1))));
        assert_eq!((some_share("0.5"), some_rate("50000")), (Ok(0.5), Ok(50_000.0)));
        for text in ["0", "-1", "nan", "inf", "fast", "1e9"] {
            assert!(some_rate(text).is_err() && some_share(text).is_err(), "{text}");
        }
        assert_eq!(grouped(1_234_567.8), "1,234,568");
        assert_eq!(grouped(12.0), "12");
        for (value, text) in
            [(1234.5, "1,234"), (12.34, "12.3"), (0.8, "0.80"), (0.0042, "0.004"), (3.0, "3")]
        {
            assert_eq!(short(value), text);
        }
        for (bytes, text) in
            [(1024, "1 KiB"), (100, "100 B"), (16 << 10, "16 KiB"), (10_000_000_000, "10 GB")]
        {
            assert_eq!(bytes_text(bytes), text);
        }
    }
}
