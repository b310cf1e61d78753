//! What the broker says once it is ready.
//!
//! Floor 6. Owner: broker. For someone who started it for the first time.

use super::broker::Started;

/// `cpus` are those that the process may use; `ringctl` is how the reader can call it.
pub fn banner(started: &Started, cpus: usize, ringctl: &str) -> String {
    let recovered_ms = started.recovered.iter().map(|shard| shard.took_ms).max().unwrap_or(0);
    let disk_bytes = started.recovered.iter().map(|shard| shard.bytes).sum();
    let damages: Vec<_> = started.recovered.iter().flat_map(|shard| &shard.damages).collect();
    let broker = match started.listen.to_string().as_str() {
        "127.0.0.1:7100" | "0.0.0.0:7100" => String::new(),
        other => format!(" --broker {}", other.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]")),
    };
    let mut text = format!(
        "Ringlog {version} is ready.\n\n\
         \x20 listening  {listen}\n\
         \x20 data       {data} ({topics}, {partitions}; {disk} on disk; recovered in {recovered_ms} ms)\n\
         \x20 shards     {shards}, {cores}; {journals}, files of {segment}\n\
         \x20 memory     a budget of {memory}, of which {share} for each shard (--set memory.bytes=N)\n\
         \x20 start      number {epoch} with these data\n",
        version = env!("CARGO_PKG_VERSION"),
        listen = started.listen,
        data = started.data.display(),
        topics = count(started.topics, "topic"),
        partitions = count(started.partitions, "partition"),
        disk = bytes(disk_bytes),
        shards = started.shards,
        cores = if started.shards as usize <= cpus {
            "each with a core of its own".to_owned()
        } else {
            format!("which share {}", count(cpus, "core"))
        },
        journals = count(started.journals, "journal"),
        segment = bytes(started.segment_bytes),
        memory = bytes(started.memory_bytes),
        share = bytes(started.memory_bytes / u64::from(started.shards)),
        epoch = started.broker_epoch,
    );
    if !damages.is_empty() {
        text.push_str("\nDAMAGE was found, and is not served:\n");
        damages.iter().for_each(|damage| text.push_str(&format!("  {damage}\n")));
        text.push_str(&format!("`ringctl verify {}` shows all of it.\n", started.data.display()));
    }
    text.push_str(&format!(
        "\nTry this in another terminal:\n\
         \x20 {ringctl}{broker} topic create greetings\n\
         \x20 echo 'hello, world' | {ringctl}{broker} produce greetings\n\
         \x20 {ringctl}{broker} consume greetings\n\n\
         Ctrl-C stops the broker. What it acknowledged is on disk, even if it is killed.\n"
    ));
    text
}

fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(value.fract() > 0.0 && value < 100.0);
    format!("{value:.digits$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(listen: &str) -> Started {
        Started {
            listen: listen.parse().unwrap(),
            data: "/data".into(),
            shards: 2,
            journals: 2,
            segment_bytes: 256 << 20,
            memory_bytes: 3 << 30,
            broker_epoch: 1,
            topics: 0,
            partitions: 0,
            recovered: Vec::new(),
        }
    }

    #[test]
    fn it_says_where_and_what_next() {
        let text = banner(&started("127.0.0.1:7100"), 2, "ringctl");
        for words in
            ["127.0.0.1:7100", "/data", "budget of 3 GiB", "1.5 GiB for each", "\n  ringctl topic create"]
        {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert!(!text.contains("--broker"));
        assert!(text.contains("2, each with a core of its own"), "{text}");
        let text = banner(&started("0.0.0.0:9"), 1, "ringctl");
        assert!(text.contains("ringctl --broker 127.0.0.1:9 consume"), "{text}");
        assert!(text.contains("2, which share 1 core;"), "{text}");
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!(bytes(12), "12 bytes");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(256 << 20), "256 MiB");
        assert_eq!(bytes(5 << 60), "5242880 TiB");
    }
}
