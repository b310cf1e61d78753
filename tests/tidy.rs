//! The shape of the source, as a test: floors, sizes, headers, and what may be named where.
//!
//! Style is a ratchet: an exception is named below with its reason, and an exception that is no longer
//! needed fails the test, so that the list only shrinks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
const WIDTH_MAX: usize = 110;
/// Twelve say what a file is for; the head of a public module may hold an example as well.
const HEADER_LINES_MAX: usize = 40;

/// Imports point to a lower floor, or stay inside one module.
const FLOORS: &[(u32, &[&str])] = &[
    (7, &["main", "bin"]),
    (6, &["server", "sim"]),
    (5, &["shard", "client"]),
    (4, &["net"]),
    (3, &["journal", "lane", "wire"]),
    (2, &["coordinator", "format", "twinlog"]),
    (1, &["api", "record", "rt"]),
    (0, &["base", "model"]),
];

/// (rule, file or "from -> to", why).
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("floors", "model -> base", "an unknown configuration key names the nearest known one"),
    ("floors", "sim -> server", "a simulated world runs the real broker, which nothing above it does"),
];

/// A word, the folders or files under which alone it may be named, and why.
const ONLY_IN: &[(&str, &[&str], &str)] = &[
    ("glommio", &["src/rt/"], "the runtime hides behind rt"),
    (
        "unsafe",
        &["src/rt/", "tests/allocations.rs", "tools/src/disk/mod.rs", "bench/src/process.rs"],
        "unsafe only where bytes meet the kernel",
    ),
    ("HashMap", &["src/base/map.rs"], "random state; use base::Map or BTreeMap"),
    ("HashSet", &["src/base/map.rs"], "random state; use base::Set or BTreeSet"),
    (
        "SystemTime",
        &["src/rt/", "src/client/", "src/bin/", "tools/", "bench/", "tests/"],
        "clocks enter through rt",
    ),
    ("std::time::Instant", &["src/rt/", "src/bin/", "tools/", "bench/", "tests/"], "clocks enter through rt"),
    ("std::thread", &["src/rt/", "src/bin/", "tools/", "bench/", "tests/"], "threads enter through rt"),
    ("thread_local", &["src/rt/", "tests/allocations.rs"], "state belongs to a shard, not to a thread"),
    (
        "std::fs",
        &["src/rt/", "src/server/", "src/bin/", "tools/", "bench/", "tests/"],
        "files enter through rt",
    ),
    ("tokio", &["src/client/", "tools/", "bench/", "tests/", "examples/"], "the broker runs on rt"),
    ("todo!", &[], "nothing is left to be done later"),
    ("unimplemented!", &[], "nothing is left to be done later"),
    ("dbg!", &[], "debugging output"),
];

struct Source {
    /// Relative to the repository.
    path: String,
    text: String,
    /// The text with comments, strings and characters blanked, line for line.
    code: String,
    /// The code without `#[cfg(test)]` modules; empty for a file of tests.
    shipped: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    for folder in ["src", "tests", "examples", "bench/src", "bench/tests", "tools/src", "tools/tests"] {
        collect(&root().join(folder), &mut paths);
    }
    paths.sort();
    paths.iter().map(|path| source(path)).collect()
}

fn source(path: &Path) -> Source {
    let text = std::fs::read_to_string(path).unwrap();
    let path = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
    let code = blank(&text);
    let is_test = path.starts_with("tests/")
        || path.contains("/tests/")
        || path.ends_with("/tests.rs")
        || path.ends_with("_tests.rs");
    let shipped = if is_test { String::new() } else { without_tests(&code) };
    Source { path, text, code, shipped }
}

/// Blanks comments, strings and character literals, keeping every line break.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if text[at..].starts_with("//") => find(text, at, "\n"),
            b'/' if text[at..].starts_with("/*") => find(text, at + 2, "*/") + 2,
            b'"' => quoted_end(bytes, at),
            b'r' if is_raw_string(bytes, at) => raw_end(text, at),
            b'\'' if is_character(bytes, at) => quoted_end(bytes, at),
            _ => at,
        };
        if end == at {
            out.push(bytes[at]);
            at += 1;
        } else {
            let end = end.min(bytes.len());
            out.extend(bytes[at..end].iter().map(|b| if *b == b'\n' { b'\n' } else { b' ' }));
            at = end;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn find(text: &str, from: usize, what: &str) -> usize {
    text.as_bytes()[from..]
        .windows(what.len())
        .position(|window| window == what.as_bytes())
        .map_or(text.len(), |at| from + at)
}

fn quoted_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != bytes[start] {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

fn is_raw_string(bytes: &[u8], at: usize) -> bool {
    let is_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    let opening = bytes[at + 1..].iter().find(|byte| **byte != b'#');
    (!is_word || bytes[at - 1] == b'b') && opening == Some(&b'"') && bytes.get(at + 1) != Some(&b'_')
}

fn raw_end(text: &str, at: usize) -> usize {
    let hashes = text[at + 1..].bytes().take_while(|byte| *byte == b'#').count();
    let close = format!("\"{}", "#".repeat(hashes));
    find(text, at + 2 + hashes, &close) + close.len()
}

/// Told apart from a lifetime: `'a'` and `'\n'` end with a quote.
fn is_character(bytes: &[u8], at: usize) -> bool {
    match bytes.get(at + 1) {
        Some(b'\\') => true,
        Some(_) => (2..=5).any(|n| bytes.get(at + n) == Some(&b'\'')) && bytes.get(at + 2) != Some(&b','),
        None => false,
    }
}

fn without_tests(code: &str) -> String {
    let mut rest = code.to_owned();
    while let Some(start) = rest.find("#[cfg(test)]") {
        let open = rest[start..].find(['{', ';']).map_or(rest.len() - 1, |at| start + at);
        let end = if rest.as_bytes()[open] == b'{' { block_end(&rest, open) } else { open + 1 };
        rest.replace_range(start..end, "");
    }
    rest
}

/// Byte of the brace that opens a function's body; `None` for a mere declaration.
fn body_start(code: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, byte) in code.bytes().enumerate() {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b'{' if depth == 0 => return Some(at),
            b';' | b'}' if depth <= 0 => return None,
            _ => {}
        }
    }
    None
}

/// Byte after the brace that closes the one at `open`.
fn block_end(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return at + 1,
            b'}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Bytes at which `word` stands by itself.
fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = at.checked_sub(1).map(|at| code.as_bytes()[at]);
        let after = code.as_bytes().get(at + word.len());
        !before.is_some_and(is_word_byte) && !after.is_some_and(|byte| is_word_byte(*byte))
    })
}

fn line_of(code: &str, at: usize) -> usize {
    code.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// Collects violations and weighs them against the exceptions.
#[derive(Default)]
struct Verdict {
    violations: Vec<String>,
    used: BTreeSet<(String, String)>,
}

impl Verdict {
    fn found(&mut self, rule: &str, subject: &str, text: String) {
        if EXCEPTIONS.iter().any(|(r, s, _)| *r == rule && *s == subject) {
            self.used.insert((rule.into(), subject.into()));
        } else {
            self.violations.push(format!("{rule}: {text}"));
        }
    }

    fn end(mut self, rules: &[&str]) {
        for (rule, subject, _) in EXCEPTIONS.iter().filter(|(rule, _, _)| rules.contains(rule)) {
            if !self.used.contains(&(rule.to_string(), subject.to_string())) {
                self.violations
                    .push(format!("{rule}: the exception for {subject} is no longer needed: remove it"));
            }
        }
        assert!(self.violations.is_empty(), "\n{}\n", self.violations.join("\n"));
    }
}

fn floor_of(module: &str) -> Option<u32> {
    FLOORS.iter().find(|(_, modules)| modules.contains(&module)).map(|(floor, _)| *floor)
}

/// `src/journal/seal.rs` -> `journal`; `src/main.rs` -> `main`.
fn module_of(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("src/")?;
    Some(rest.split('/').next()?.trim_end_matches(".rs")).filter(|module| *module != "lib")
}

/// Modules named as `crate::x` or `crate::{x::.., y}`.
fn imported(code: &str) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for name in ["crate::", "ringlog::"] {
        for (at, _) in code.match_indices(name) {
            let rest = &code[at + name.len()..];
            let first = |text: &str| {
                text.trim_start()
                    .split(|c: char| !(c.is_alphanumeric() || c == '_'))
                    .next()
                    .map(str::to_owned)
            };
            if let Some(group) = rest.strip_prefix('{') {
                let group = &group[..block_end(rest, 0).saturating_sub(2).min(group.len())];
                let mut depth = 0;
                for part in group.split_inclusive(['{', '}', ',']) {
                    if depth == 0 {
                        let module = first(part).filter(|module| !module.is_empty());
                        found.extend(module.map(|module| (module, line_of(code, at))));
                    }
                    depth += part.matches('{').count() as i32 - part.matches('}').count() as i32;
                }
            } else {
                found.extend(first(rest).map(|module| (module, line_of(code, at))));
            }
        }
    }
    found
}

#[test]
fn imports_point_down() {
    let mut verdict = Verdict::default();
    for source in sources() {
        let Some(module) = module_of(&source.path) else { continue };
        let Some(floor) = floor_of(module) else {
            verdict.found(
                "floors",
                module,
                format!("{}: module {module} has no floor in tests/tidy.rs", source.path),
            );
            continue;
        };
        for (target, line) in imported(&source.code) {
            let Some(below) = floor_of(&target) else { continue };
            if target != module && below >= floor {
                let edge = format!("{module} -> {target}");
                let text = format!(
                    "{}:{line}: {module} (floor {floor}) names {target} (floor {below})",
                    source.path
                );
                verdict.found("floors", &edge, text);
            }
        }
    }
    verdict.end(&["floors"]);
}

#[test]
fn files_functions_and_comments_are_short() {
    let mut verdict = Verdict::default();
    for source in sources() {
        for (number, line) in (1..).zip(source.text.lines()) {
            // rustfmt sees to the width of code, and leaves comments alone.
            if line.trim_start().starts_with("//") && line.chars().count() > WIDTH_MAX {
                let text = format!("{}:{number}: a comment is wider than {WIDTH_MAX}", source.path);
                verdict.found("width", &source.path, text);
            }
        }
        let lines = source.text.lines().count();
        if lines > LINES_MAX {
            verdict.found(
                "file",
                &source.path,
                format!("{} has {lines} lines, over {LINES_MAX}", source.path),
            );
        }
        for at in words(&source.code, "fn") {
            let rest = &source.code[at..];
            let Some(name) =
                rest[2..].split(|c: char| !(c.is_alphanumeric() || c == '_')).find(|n| !n.is_empty())
            else {
                continue;
            };
            let Some(open) = body_start(rest) else { continue };
            let lines = rest[..block_end(rest, open)].lines().count();
            if lines > FUNCTION_LINES_MAX {
                let line = line_of(&source.code, at);
                let text =
                    format!("{}:{line}: {name} has {lines} lines, over {FUNCTION_LINES_MAX}", source.path);
                verdict.found("function", &format!("{} {name}", source.path), text);
            }
        }
    }
    verdict.end(&["file", "function", "width"]);
}

#[test]
fn every_file_opens_with_its_purpose() {
    let mut verdict = Verdict::default();
    for source in sources() {
        let header: Vec<&str> = source.text.lines().take_while(|line| line.starts_with("//!")).collect();
        if header.is_empty() || header[0].trim_start_matches("//!").trim().len() < 10 {
            verdict.found("header", &source.path, format!("{} has no header", source.path));
        } else if source.path.starts_with("src/") && module_of(&source.path).is_some() {
            let has_floor = header.iter().any(|line| line.contains("Floor"));
            let module = module_of(&source.path).and_then(floor_of);
            if !has_floor && module != Some(7) {
                verdict.found(
                    "header",
                    &source.path,
                    format!("the header of {} names no floor", source.path),
                );
            }
        }
        if header.len() > HEADER_LINES_MAX {
            verdict.found("header", &source.path, format!("the header of {} is too long", source.path));
        }
    }
    verdict.end(&["header"]);
}

#[test]
fn words_stay_where_they_belong() {
    let mut verdict = Verdict::default();
    for source in sources() {
        for (word, places, why) in ONLY_IN {
            if places.iter().any(|place| source.path.starts_with(place)) {
                continue;
            }
            if let Some(at) = words(&source.code, word).next() {
                let line = line_of(&source.code, at);
                verdict.found("word", &source.path, format!("{}:{line} names {word}: {why}", source.path));
            }
        }
        if let Some(at) = source.shipped.find(".unwrap()") {
            let near: String = source.shipped[..at].lines().last().unwrap_or_default().trim().into();
            verdict.found("unwrap", &source.path, format!("{} unwraps outside tests: {near}", source.path));
        }
    }
    verdict.end(&["word", "unwrap"]);
}

#[test]
fn the_rules_see_what_they_should() {
    let text = "//! A file's header.\nfn f<'a>(x: &'a str) { let c = '{'; let s = \"}\\\"\"; let r = r#\"{ \"x\" \"#; } // {\n";
    let code = blank(text);
    assert_eq!(code.matches('{').count(), 1);
    assert_eq!(code.matches('}').count(), 1);
    assert_eq!(code.lines().count(), text.lines().count());
    let found = imported(
        "use crate::rt; use crate::{base::{Map, x}, model::ErrorCode};\nfn f() { crate::lane::g() }",
    );
    let found: Vec<(&str, usize)> = found.iter().map(|(module, line)| (module.as_str(), *line)).collect();
    assert_eq!(found, [("base", 1), ("lane", 2), ("model", 1), ("rt", 1)]);
    assert_eq!(without_tests("a #[cfg(test)] mod t { b } c #[cfg(test)]\nmod u;d"), "a  c d");
}
