//! The values of options: what is allowed, and a refusal that says so.
//!
//! Owner: ringctl. Pure. clap names the option and the value before each of these texts.

use std::net::SocketAddr;
use std::time::Duration;

/// Longer would be for ever: 31 years.
const SECONDS_MAX: f64 = 1e9;

/// Bytes between key and value; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Separator(pub Vec<u8>);

/// `ADDR:PORT`, where the address may be a host's name.
pub fn broker(text: &str) -> Result<String, String> {
    let wrong = |what: String| {
        Err(format!("{what}; write ADDR:PORT, such as 127.0.0.1:7100, localhost:7100 or [::1]:7100"))
    };
    let Some((host, port)) = text.rsplit_once(':') else {
        return wrong(if text.is_empty() { "it is empty".into() } else { "it has no port".into() });
    };
    if !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return wrong(format!("{port:?} is not a port (1 to 65535)"));
    }
    let is_name = |host: &str| !host.is_empty() && !host.contains([':', '/', ',', '@', '[', ']', ' ']);
    match host {
        _ if is_name(host) || text.parse::<SocketAddr>().is_ok() => Ok(text.into()),
        "" => wrong("it has no address".into()),
        _ if host.contains(':') && !host.contains(['/', '[', ',']) => {
            wrong("an IPv6 address needs brackets".into())
        }
        _ => wrong(format!("{host:?} is not an address")),
    }
}

pub fn partition(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "wanted the number of a partition; the first one is 0".into())
}

pub fn partitions(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "wanted a number of partitions, at least 1".into())
}

pub fn count(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "wanted a number of records, at least 0".into())
}

/// An offset, or -1.
pub fn before(text: &str) -> Result<i64, String> {
    let offset = text.parse().ok().filter(|offset| *offset >= -1);
    offset.ok_or_else(|| "wanted an offset, or -1 for all records there are now".into())
}

pub fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| *seconds > 0.0 && *seconds <= SECONDS_MAX);
    seconds.map(Duration::from_secs_f64).filter(|duration| !duration.is_zero()).ok_or_else(|| {
        format!("wanted a number of seconds above 0 and up to {SECONDS_MAX}, such as 30 or 0.5")
    })
}

pub fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some(("", _)) | None => Err("wanted KEY=VALUE".into()),
        Some((key, value)) => Ok((key.into(), value.into())),
    }
}

pub fn separator(text: &str) -> Result<Separator, String> {
    if text.is_empty() {
        return Err("must not be empty".into());
    }
    // An escape that makes no sense is taken as it stands: a lone backslash is a fine separator.
    Ok(Separator(crate::template::unescape(text).unwrap_or_else(|_| text.as_bytes().to_vec())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_have_an_address_and_a_port() {
        for good in ["127.0.0.1:7100", "localhost:1", "[::1]:7100", "my_host-1.example:65535"] {
            assert_eq!(broker(good).as_deref(), Ok(good));
        }
        for (bad, why) in [
            ("", "it is empty"),
            ("127.0.0.1", "it has no port"),
            ("localhost", "it has no port"),
            ("127.0.0.1:", "\"\" is not a port"),
            ("127.0.0.1:0", "\"0\" is not a port"),
            ("127.0.0.1:99999", "\"99999\" is not a port"),
            ("http://localhost", "\"//localhost\" is not a port"),
            ("http://localhost:7100", "\"http://localhost\" is not an address"),
            ("a:1,b:2", "\"a:1,b\" is not an address"),
            (":7100", "it has no address"),
            ("::1:7100", "an IPv6 address needs brackets"),
            ("[::1", "\"[:\" is not an address"),
            ("[nonsense]:7100", "\"[nonsense]\" is not an address"),
        ] {
            let text = broker(bad).unwrap_err();
            assert!(text.starts_with(why) && text.contains("such as 127.0.0.1:7100"), "{bad}: {text}");
        }
    }

    #[test]
    fn numbers_have_bounds() {
        assert_eq!(
            (partition("0"), partitions("1"), count("0"), before("-1")),
            (Ok(0), Ok(1), Ok(0), Ok(-1))
        );
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["-1", "x", "", "4294967296"] {
            assert!(partition(bad).unwrap_err().contains("the first one is 0"), "{bad}");
            assert!(partitions(bad).unwrap_err().contains("at least 1"), "{bad}");
        }
        assert!(partitions("0").is_err() && count("-1").is_err() && before("-2").is_err());
        for bad in ["0", "-1", "nan", "inf", "1e10", "1e-12", "soon"] {
            assert!(seconds(bad).unwrap_err().contains("such as 30 or 0.5"), "{bad}");
        }
    }

    #[test]
    fn separators_may_be_escaped() {
        assert_eq!(separator("\\t"), Ok(Separator(b"\t".to_vec())));
        assert_eq!(separator("=>"), Ok(Separator(b"=>".to_vec())));
        assert_eq!(separator("\\"), Ok(Separator(b"\\".to_vec())));
        assert!(separator("").is_err());
    }
}
