//! A broker that is away, dies or returns; time that runs out; a reader that goes away.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;

use crate::stage::{Stage, said};

#[test]
fn a_broker_that_is_not_there_is_named_with_the_cure() {
    let stage = Stage::dark();
    let text = stage.refused(&["produce", "t", "--delivery-timeout", "0.5"]);
    assert!(text.contains(&stage.address) && text.contains("--broker"), "{text}");
}

#[test]
fn produce_survives_a_broker_that_dies_and_returns() {
    let mut stage = Stage::start();
    stage.ok(&["topic", "create", "t", "--partitions", "4"]);
    let mut child = stage
        .command(&["produce", "t", "--print-acks", "--key-separator", ":"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut acks = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut wanted = String::new();
    for round in 0..4 {
        for number in 0..500 {
            let line = format!("{number}:{round}.{number}\n");
            stdin.write_all(line.as_bytes()).unwrap();
            wanted += &line;
        }
        // Some are acknowledged, some are on their way when the broker dies.
        acks.next().unwrap().unwrap();
        stage.kill_broker();
        stdin.write_all(b"7:while it is away\n").unwrap();
        wanted += "7:while it is away\n";
        stage.start_broker();
    }
    drop(stdin);
    assert_eq!(acks.count() + 4, 2004, "every line is acknowledged once");
    assert!(child.wait().unwrap().success());
    let found = stage.ok(&["consume", "t", "--format", "%k:%s\\n"]);
    for key in ["0", "7", "499"] {
        let of_key = |text: &str| -> Vec<String> {
            let prefix = format!("{key}:");
            text.lines().filter(|line| line.starts_with(&prefix)).map(str::to_owned).collect()
        };
        assert_eq!(of_key(&found), of_key(&wanted), "in order, each once");
    }
    assert_eq!(found.lines().count(), 2004);
}

#[test]
fn a_delivery_timeout_counts_what_was_not_delivered() {
    let mut stage = Stage::start();
    stage.ok(&["topic", "create", "t", "--partitions", "1"]);
    let mut child = stage
        .command(&["produce", "t", "--delivery-timeout", "1", "--print-acks"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut acks = BufReader::new(child.stdout.take().unwrap());
    stdin.write_all(b"one\n").unwrap();
    let mut line = String::new();
    acks.read_line(&mut line).unwrap();
    assert_eq!(line, "1 0 0\n");
    stage.kill_broker();
    stdin.write_all(b"two\nthree\n").unwrap();
    drop(stdin);
    let mut rest = String::new();
    acks.read_to_string(&mut rest).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((rest.as_str(), output.status.code()), ("", Some(1)));
    assert!(said(&output).contains("2 records not delivered, 1 delivered"), "{}", said(&output));
}

#[test]
fn a_line_that_no_topic_can_take_is_named_and_the_others_pass() {
    let stage = Stage::start();
    stage.ok(&["topic", "create", "t", "--partitions", "1", "--config", "max.message.bytes=10000"]);
    let input = [b"small\n".to_vec(), vec![b'x'; 20_000], b"\nsmall too\n".to_vec()].concat();
    let output = stage.with_input(&["produce", "t"], &input);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("line 2 was not delivered"), "{}", said(&output));
    assert!(said(&output).contains("1 record not delivered, 2 delivered"), "{}", said(&output));
    assert_eq!(stage.ok(&["consume", "t"]), "small\nsmall too\n");
}

#[test]
fn a_closed_pipe_is_not_an_error() {
    let stage = Stage::start();
    stage.ok(&["topic", "create", "t", "--partitions", "1"]);
    let input = "a line of text that fills the pipe\n".repeat(100_000);
    stage.produce(&["t"], input.as_bytes());
    let mut child = stage.command(&["consume", "t"]).spawn().unwrap();
    let mut first = [0; 7];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut first).unwrap();
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", said(&output));
}
