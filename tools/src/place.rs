//! Where to begin reading: `--offset` and `--from-time`.
//!
//! Owner: ringctl. Pure.

use std::str::FromStr;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// `--offset earliest|latest|N|-N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartOffset {
    Earliest,
    Latest,
    /// At this offset.
    At(i64),
    /// This many records before the end.
    FromEnd(i64),
}

impl FromStr for StartOffset {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || "wanted earliest, latest, an offset N, or -N for the last N records".to_string();
        match text {
            "earliest" => Ok(StartOffset::Earliest),
            "latest" => Ok(StartOffset::Latest),
            _ => match text.strip_prefix('-') {
                Some(count) => digits(count).map(StartOffset::FromEnd).ok_or_else(wanted),
                None => digits(text).map(StartOffset::At).ok_or_else(wanted),
            },
        }
    }
}

/// `--from-time RFC3339|UNIXMS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FromTime {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub unix_ms: i64,
}

impl FromStr for FromTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(unix_ms) = digits(text) {
            return Ok(FromTime { unix_ms });
        }
        let at = OffsetDateTime::parse(text, &Rfc3339).map_err(|error| {
            format!("wanted milliseconds since 1970 or a time like 2026-01-31T09:00:00Z ({error})")
        })?;
        // The first whole millisecond that is not before the wanted time.
        let unix_ms = at.unix_timestamp_nanos().div_euclid(1_000_000)
            + i128::from(at.unix_timestamp_nanos().rem_euclid(1_000_000) != 0);
        i64::try_from(unix_ms.max(0)).map(|unix_ms| FromTime { unix_ms }).map_err(|error| error.to_string())
    }
}

/// A number without a sign.
fn digits(text: &str) -> Option<i64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets() {
        assert_eq!("earliest".parse(), Ok(StartOffset::Earliest));
        assert_eq!("latest".parse(), Ok(StartOffset::Latest));
        assert_eq!("0".parse(), Ok(StartOffset::At(0)));
        assert_eq!("-10".parse(), Ok(StartOffset::FromEnd(10)));
        for text in ["", "-", "--5", "+5", "-latest", "1.5", "99999999999999999999"] {
            assert!(text.parse::<StartOffset>().is_err(), "{text}");
        }
    }

    #[test]
    fn times() {
        let ms = |text: &str| text.parse::<FromTime>().map(|time| time.unix_ms);
        assert_eq!(ms("1700000000000"), Ok(1_700_000_000_000));
        assert_eq!(ms("1970-01-01T00:00:01Z"), Ok(1000));
        assert_eq!(ms("2026-01-31T09:00:00+02:00"), ms("2026-01-31T07:00:00Z"));
        assert_eq!(ms("1970-01-01T00:00:00.0001Z"), Ok(1), "rounded up: not older than");
        assert_eq!(ms("1969-01-01T00:00:00Z"), Ok(0));
        assert!(ms("yesterday").is_err());
        assert!(ms("2026-13-01T00:00:00Z").is_err());
    }
}
