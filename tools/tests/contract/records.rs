//! Lines to records and back.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use crate::stage::{Stage, said};

#[test]
fn every_line_is_a_record_and_comes_back_unchanged() {
    let stage = Stage::start();
    stage.ok(&["topic", "create", "t", "--partitions", "1"]);
    let mut input: Vec<u8> = b"first\n\nthird\r\n\xff\xfe\0binary\n".to_vec();
    input.extend(std::iter::repeat_n(b'x', 900_000));
    input.extend_from_slice(b"\nlast without an end");
    let said_by_produce = stage.with_input(&["produce", "t"], &input);
    assert!(said_by_produce.status.success());
    assert!(said(&said_by_produce).contains("6 records delivered"), "{}", said(&said_by_produce));
    let output = stage.ringctl(&["consume", "t"]);
    input.push(b'\n');
    assert!(output.status.success() && output.stdout == input, "bytes went in and others came out");
}

#[test]
fn keys_headers_and_formats() {
    let stage = Stage::start();
    stage.ok(&["topic", "create", "t", "--partitions", "1"]);
    let line = ["t", "--key-separator", "=>", "--header", "a=1", "--header", "b=x=y"];
    stage.produce(&line, b"k1=>v1\nnokey\n=>empty key\nk2=>a=>b\n");
    let format = "%t %p %o [%k] [%s] %h%%\\t|\\n";
    let wanted = "t 0 0 [k1] [v1] a=1,b=x=y%\t|\nt 0 1 [] [nokey] a=1,b=x=y%\t|\n\
                  t 0 2 [] [empty key] a=1,b=x=y%\t|\nt 0 3 [k2] [a=>b] a=1,b=x=y%\t|\n";
    assert_eq!(stage.ok(&["consume", "t", "--format", format]), wanted);
    let timestamp: i64 = stage.ok(&["consume", "t", "--count", "1", "--format", "%T"]).parse().unwrap();
    assert!(timestamp > 1_700_000_000_000, "milliseconds since 1970");
}

#[test]
fn acknowledgements_name_line_partition_and_offset() {
    let stage = Stage::start();
    stage.ok(&["topic", "create", "t", "--partitions", "3"]);
    for acks in ["all", "1"] {
        let printed = stage.produce(&["t", "--print-acks", "--partition", "2", "--acks", acks], b"a\nb\n");
        let offset = if acks == "all" { 0 } else { 2 };
        assert_eq!(printed, format!("1 2 {offset}\n2 2 {}\n", offset + 1));
    }
    assert_eq!(stage.produce(&["t", "--print-acks", "--partition", "0", "--acks", "0"], b"a\n"), "1 0 -1\n");
    let printed = stage.produce(&["t", "--print-acks"], b"1\n2\n3\n4\n5\n");
    let mut lines: Vec<u32> =
        printed.lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
    lines.sort_unstable();
    assert_eq!(lines, [1, 2, 3, 4, 5]);
}

#[test]
fn an_acknowledgement_is_printed_while_stdin_stays_open() {
    let stage = Stage::start();
    stage.ok(&["topic", "create", "t", "--partitions", "1"]);
    let mut child = stage.command(&["produce", "t", "--print-acks"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut acks = BufReader::new(child.stdout.take().unwrap()).lines();
    for offset in 0..3 {
        writeln!(stdin, "line").unwrap();
        stdin.flush().unwrap();
        assert_eq!(acks.next().unwrap().unwrap(), format!("{} 0 {offset}", offset + 1));
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[test]
fn compression_is_invisible() {
    let stage = Stage::start();
    for compression in ["none", "lz4", "zstd"] {
        stage.ok(&["topic", "create", compression, "--partitions", "1"]);
        let input: String =
            (0..5000).map(|number| format!("line {number} of some repetitive text\n")).collect();
        stage.produce(&[compression, "--compression", compression], input.as_bytes());
        assert_eq!(stage.ok(&["consume", compression]), input);
    }
}

#[test]
fn places_to_begin_and_to_end() {
    let stage = Stage::start();
    stage.ok(&["topic", "create", "t", "--partitions", "1"]);
    stage.produce(&["t"], b"0\n1\n2\n3\n4\n");
    let consume = |options: &[&str]| stage.ok(&[&["consume", "t"], options].concat());
    assert_eq!(consume(&[]), "0\n1\n2\n3\n4\n");
    assert_eq!(consume(&["--offset", "earliest", "--count", "2"]), "0\n1\n");
    assert_eq!(consume(&["--offset", "3"]), "3\n4\n");
    assert_eq!(consume(&["--offset", "-2"]), "3\n4\n");
    assert_eq!(consume(&["--offset", "-99"]), "0\n1\n2\n3\n4\n");
    assert_eq!(consume(&["--offset", "latest"]), "");
    assert_eq!(consume(&["--offset", "99"]), "");
    assert_eq!(consume(&["--count", "0"]), "");
    assert_eq!(consume(&["--from-time", "0"]), "0\n1\n2\n3\n4\n");
    assert_eq!(consume(&["--from-time", "2999-01-01T00:00:00Z"]), "");
    let third = consume(&["--offset", "2", "--count", "1", "--format", "%T"]);
    assert!(consume(&["--from-time", &third]).ends_with("3\n4\n"));
}

#[test]
fn follow_prints_what_comes_later() {
    let stage = Stage::start();
    stage.ok(&["topic", "create", "t", "--partitions", "2"]);
    stage.produce(&["t", "--partition", "0"], b"before\n");
    let mut child = stage.command(&["consume", "t", "--follow", "--count", "3"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "before");
    stage.produce(&["t", "--partition", "1"], b"after\n");
    assert_eq!(lines.next().unwrap().unwrap(), "after");
    stage.produce(&["t", "--partition", "0"], b"end\n");
    assert_eq!(lines.next().unwrap().unwrap(), "end");
    assert!(child.wait().unwrap().success());
}
