//! `--format`: kcat's letters, compiled once and rendered for every record.
//!
//! Owner: ringctl. Pure; rendering appends to the caller's buffer and allocates nothing of its own.

use std::io::Write;
use std::str::FromStr;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Vec<u8>),
    Value,
    Key,
    Partition,
    Offset,
    TimestampMs,
    Topic,
    Headers,
}

/// A compiled `--format`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

/// What a template can print of a record. A missing key or value prints as nothing.
pub struct Fields<'a> {
    pub topic: &'a str,
    pub partition: u32,
    pub offset: i64,
    pub timestamp_ms: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    /// Name and value of each header.
    pub headers: &'a [(&'a [u8], Option<&'a [u8]>)],
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            if letter == '\\' {
                // Escapes are resolved with the whole literal, but `\%` must not begin a letter.
                literal.push(letter);
                literal.extend(letters.next());
                continue;
            }
            if letter != '%' {
                literal.push(letter);
                continue;
            }
            let part = match letters.next() {
                Some('s') => Part::Value,
                Some('k') => Part::Key,
                Some('p') => Part::Partition,
                Some('o') => Part::Offset,
                Some('T') => Part::TimestampMs,
                Some('t') => Part::Topic,
                Some('h') => Part::Headers,
                Some('%') => {
                    literal.push('%');
                    continue;
                }
                Some(other) => return Err(format!("%{other} is not a letter; known: {LETTERS}")),
                None => return Err(format!("a % at the end; write %% for a percent sign; known: {LETTERS}")),
            };
            push_text(&mut parts, &mut literal)?;
            parts.push(part);
        }
        push_text(&mut parts, &mut literal)?;
        Ok(Template { parts })
    }
}

const LETTERS: &str = "%s %k %p %o %T %t %h %%";

fn push_text(parts: &mut Vec<Part>, literal: &mut String) -> Result<(), String> {
    if !literal.is_empty() {
        parts.push(Part::Text(unescape(literal)?));
        literal.clear();
    }
    Ok(())
}

impl Template {
    /// Appends the record to `out`.
    pub fn render(&self, fields: &Fields<'_>, out: &mut Vec<u8>) {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::Value => out.extend_from_slice(fields.value.unwrap_or_default()),
                Part::Key => out.extend_from_slice(fields.key.unwrap_or_default()),
                Part::Partition => put_number(out, i64::from(fields.partition)),
                Part::Offset => put_number(out, fields.offset),
                Part::TimestampMs => put_number(out, fields.timestamp_ms),
                Part::Topic => out.extend_from_slice(fields.topic.as_bytes()),
                Part::Headers => {
                    for (index, (name, value)) in fields.headers.iter().enumerate() {
                        if index > 0 {
                            out.push(b',');
                        }
                        out.extend_from_slice(name);
                        out.push(b'=');
                        out.extend_from_slice(value.unwrap_or_default());
                    }
                }
            }
        }
    }
}

/// Appends `value` in decimal.
pub fn put_number(out: &mut Vec<u8>, value: i64) {
    write!(out, "{value}").expect("writing to a Vec does not fail");
}

/// Resolves `\t`, `\n`, `\r`, `\0`, `\\`, `\%` and `\xHH`.
pub fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let Some((&escape, after)) = rest.split_first() else {
            return Err("a backslash at the end; write \\\\ for a backslash".into());
        };
        rest = after;
        out.push(match escape {
            b't' => b'\t',
            b'n' => b'\n',
            b'r' => b'\r',
            b'0' => 0,
            b'\\' => b'\\',
            b'%' => b'%',
            b'x' => {
                let digits = rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
                let value = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
                rest = rest.get(2..).unwrap_or_default();
                value.ok_or("\\x wants two hexadecimal digits")?
            }
            _ => {
                return Err(format!(
                    "\\{} is not an escape; known: \\t \\n \\r \\0 \\\\ \\xHH",
                    escape as char
                ));
            }
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(format: &str) -> Result<String, String> {
        let template: Template = format.parse()?;
        let mut out = Vec::new();
        template.render(
            &Fields {
                topic: "events",
                partition: 3,
                offset: 4711,
                timestamp_ms: 1_700_000_000_000,
                key: Some(b"key"),
                value: Some(b"val%s\\n"),
                headers: &[(b"a", Some(b"1")), (b"b", Some(b"2"))],
            },
            &mut out,
        );
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn letters_and_escapes() {
        let rendered = [
            ("%s\\n", "val%s\\n\n"),
            ("%k:%s", "key:val%s\\n"),
            ("%t[%p]@%o %T", "events[3]@4711 1700000000000"),
            ("%h", "a=1,b=2"),
            ("100%%\\t\\\\\\x41", "100%\t\\A"),
            ("\\%s", "%s"),
            ("", ""),
            ("é%p", "é3"),
        ];
        for (format, wanted) in rendered {
            assert_eq!(render(format).as_deref(), Ok(wanted), "{format}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for format in ["%", "%z", "abc%", "\\q", "\\", "\\x4", "\\xzz"] {
            assert!(render(format).is_err(), "{format}");
        }
    }
}
