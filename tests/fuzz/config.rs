//! Target of the broker's configuration file.

use super::{Random, Target, run};
use ringlog::server::Config;

/// The TOML reader keeps spans and error texts beside the values.
const CONSTANT_BYTES: usize = 64 << 10;

fn sample(random: &mut Random) -> Vec<u8> {
    let lines = [
        "shards = 3",
        "listen = '[::1]:9'",
        "'segment.bytes' = 1048576",
        "memory.bytes = \"64MiB\"",
        "[retention]\nms = -1",
        "[message]\ntimestamp.type = 'LogAppendTime'",
    ];
    // Tables stand last and each key once.
    let lines: Vec<&str> = lines.into_iter().filter(|_| random.flip()).collect();
    lines.join("\n").into_bytes()
}

fn decode(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    if let Some((key, value)) = text.split_once('=') {
        let _ = Config::default().set(key.trim(), value.trim());
    }
    Config::default().read_toml(text).is_ok()
}

#[test]
fn config_files() {
    run(&Target { name: "config::config_files", sample, reseal: |_| (), decode }, CONSTANT_BYTES);
}
