//! Every command of the contract.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::stage::{Stage, full_disk, said};

#[test]
fn topics_are_created_listed_described_altered_and_deleted() {
    let stage = Stage::start();
    let created =
        stage.ringctl(&["topic", "create", "b", "--partitions", "3", "--config", "retention.ms=7000"]);
    assert!(created.status.success() && created.stdout.is_empty(), "messages go to stderr");
    stage.ok(&["topic", "create", "a"]);
    assert_eq!(stage.ok(&["topic", "list"]), "a\nb\n");

    let list: Value = serde_json::from_str(&stage.ok(&["topic", "list", "--json"])).unwrap();
    assert_eq!((&list[1]["name"], &list[1]["partitions"]), (&Value::from("b"), &Value::from(3)));

    let describe: Value = serde_json::from_str(&stage.ok(&["topic", "describe", "b", "--json"])).unwrap();
    assert_eq!(describe["name"], "b");
    assert_eq!(describe["partitions"].as_array().map(Vec::len), Some(3));
    assert_eq!(describe["configs"]["retention.ms"]["value"], "7000");
    assert_eq!(describe["configs"]["retention.ms"]["set"], true);
    assert!(stage.ok(&["topic", "describe", "b"]).contains("config retention.ms=7000 (set on the topic)"));

    stage.ok(&["topic", "alter", "b", "--partitions", "5", "--config", "retention.ms="]);
    let describe: Value = serde_json::from_str(&stage.ok(&["topic", "describe", "b", "--json"])).unwrap();
    assert_eq!(describe["partitions"].as_array().map(Vec::len), Some(5));
    assert_eq!(describe["configs"]["retention.ms"]["set"], false);

    stage.ok(&["topic", "delete", "b"]);
    assert_eq!(stage.ok(&["topic", "list"]), "a\n");
}

#[test]
fn what_cannot_be_done_says_why_and_exits_1() {
    let stage = Stage::start();
    stage.ok(&["topic", "create", "t"]);
    assert!(stage.refused(&["topic", "create", "t"]).contains("TOPIC_ALREADY_EXISTS"));
    assert!(stage.refused(&["topic", "delete", "nope"]).contains("UNKNOWN_TOPIC"));
    assert!(stage.refused(&["topic", "describe", "nope"]).contains("topic create nope"));
    assert!(stage.refused(&["topic", "create", "u", "--config", "retention.mss=1"]).contains("retention.ms"));
    assert!(stage.refused(&["topic", "create", "a/b"]).contains("INVALID_TOPIC"));
    let tiny = stage.refused(&["topic", "create", "u", "--config", "max.message.bytes=1"]);
    assert!(tiny.contains("max.message.bytes=1 is out of range: 128 to 15728640"), "{tiny}");
    assert!(stage.refused(&["offsets", "nope"]).contains("UNKNOWN_TOPIC"));
    assert!(stage.refused(&["consume", "nope"]).contains("UNKNOWN_TOPIC"));
    assert!(stage.refused(&["produce", "nope"]).contains("UNKNOWN_TOPIC"));
    assert!(stage.refused(&["produce", "t", "--partition", "99"]).contains("no partition 99"));
    assert!(stage.refused(&["consume", "t", "--partition", "99"]).contains("no partition 99"));
    assert_eq!(stage.ringctl(&["frobnicate"]).status.code(), Some(2));
    assert!(stage.ok(&["--help"]).contains("seq 1000 | ringctl produce events"));
}

#[test]
fn offsets_and_trim() {
    let stage = Stage::start();
    stage.ok(&["topic", "create", "t", "--partitions", "2"]);
    stage.produce(&["t", "--partition", "1"], b"a\nb\nc\n");
    assert_eq!(stage.ok(&["offsets", "t"]), "0 0 0\n1 0 3\n");
    let trimmed = stage.ok(&["topic", "trim", "t", "--partition", "1", "--before", "2"]);
    assert_eq!(trimmed, "2\n");
    assert_eq!(stage.ok(&["offsets", "t"]), "0 0 0\n1 2 3\n");
    assert_eq!(stage.ok(&["consume", "t"]), "c\n");
    let offsets: Value = serde_json::from_str(&stage.ok(&["offsets", "t", "--json"])).unwrap();
    assert_eq!(offsets[1]["earliest"], 2);
    assert_eq!(offsets[1]["latest"], 3);
}

#[test]
fn a_line_that_cannot_be_understood_names_the_value_and_what_is_allowed() {
    let stage = Stage::dark();
    for (line, wanted) in [
        (
            &["--broker", "127.0.0.1", "topic", "list"][..],
            "'127.0.0.1' for '--broker <ADDR:PORT>': it has no port",
        ),
        (&["--broker", "", "offsets", "t"], "it is empty; write ADDR:PORT, such as 127.0.0.1:7100"),
        (&["topic", "alter", "t"], "<--partitions <N>|--config <K=V>>"),
        (
            &["topic", "create", "t", "--partitions", "0"],
            "'0' for '--partitions <N>': wanted a number of part",
        ),
        (&["topic", "trim", "t", "--partition", "-1", "--before", "0"], "'-1' for '--partition <P>': wanted"),
        (
            &["topic", "trim", "t", "--partition", "0", "--before", "-2"],
            "'-2' for '--before <OFFSET>': wanted",
        ),
        (&["produce", "t", "--partition", "-1"], "the first one is 0"),
        (&["produce", "t", "--delivery-timeout", "-1"], "'-1' for '--delivery-timeout <SECONDS>': wanted"),
        (&["consume", "t", "--count", "-1"], "'-1' for '--count <N>': wanted a number of records"),
        (&["consume", "t", "--partition", "-1"], "'-1' for '--partition <P>': wanted"),
        (&["consume", "t", "--offset", "-x"], "-N for the last N records"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringctl"));
        let output = command.args(line).stdin(Stdio::null()).output().unwrap();
        let text = said(&output);
        assert!(text.contains(wanted), "{line:?}: {text}");
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{line:?}");
    }
    // The values that begin with a dash and mean something reach a broker, which is not there.
    for line in [
        &["topic", "trim", "t", "--partition", "0", "--before", "-1"][..],
        &["produce", "t", "--acks", "-1", "--delivery-timeout", "0.1"],
    ] {
        assert!(stage.refused(line).contains("no answer from"), "{line:?}");
    }
}

#[test]
fn help_says_what_a_command_does() {
    let stage = Stage::dark();
    for (line, wanted) in [
        (&["--help"][..], "produce  Write records from stdin, one a line"),
        (&["produce", "--help"], "An empty line is an empty record"),
        (&["consume", "--help"], "Reads every partition to its end"),
    ] {
        let help = stage.ok(line);
        assert!(help.contains(wanted), "{line:?}: {help}");
    }
}

#[test]
fn a_full_stdout_is_a_failure() {
    let stage = Stage::start();
    stage.ok(&["topic", "create", "t"]);
    stage.produce(&["t"], b"a\n");
    for line in [&["consume", "t"][..], &["topic", "list"], &["offsets", "t"], &["--help"]] {
        let output = stage.command(line).stdout(full_disk()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{line:?}");
        assert!(said(&output).contains("stdout: No space left"), "{line:?}: {}", said(&output));
    }
}
