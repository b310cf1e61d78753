//! Every command of the contract.

use serde_json::Value;

use crate::stage::Stage;

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
