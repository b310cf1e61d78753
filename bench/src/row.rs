//! One case's line: its figures, what it was to reach, and whether it did.
//!
//! Owner: ringbench. Pure but for the printing.

use serde_json::{Value, json};

use crate::figures::{Figures, Metrics, get};
use crate::promised::KEYS;
use crate::units::{grouped, short};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// A figure and its bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Goal {
    /// Name among the figures.
    pub name: &'static str,
    pub bound: Bound,
}

pub fn at_least(name: &'static str, value: f64) -> Goal {
    Goal { name, bound: Bound::AtLeast(value) }
}

pub fn at_most(name: &'static str, value: f64) -> Goal {
    Goal { name, bound: Bound::AtMost(value) }
}

impl Goal {
    /// A figure that was not measured reaches nothing.
    fn is_reached(&self, metrics: &Metrics) -> bool {
        match (get(metrics, self.name), self.bound) {
            (Some(got), Bound::AtLeast(wanted)) => got >= wanted,
            (Some(got), Bound::AtMost(wanted)) => got <= wanted,
            (None, _) => false,
        }
    }

    fn bound_text(&self) -> String {
        let (sign, value) = match self.bound {
            Bound::AtLeast(value) => (">=", value),
            Bound::AtMost(value) => ("<=", value),
        };
        format!("{sign} {}", shown(self.name, value))
    }

    fn text(&self) -> String {
        format!("{} {}", title(self.name), self.bound_text())
    }

    /// With what was reached, and a mark before what was not.
    fn verdict(&self, metrics: &Metrics) -> String {
        let mark = if self.is_reached(metrics) { "" } else { "!" };
        let got = get(metrics, self.name).map_or("-".into(), |got| shown(self.name, got));
        format!("{mark}{} {got} {}", title(self.name), self.bound_text())
    }
}

/// How people call a figure.
fn title(name: &str) -> String {
    let name = match name {
        "bytes_per_second" => return "MB/s".into(),
        "consumed_bytes_per_second" => return "read MB/s".into(),
        "records_per_second" => return "records/s".into(),
        "broker_cpu_ns_per_record" => return "ns/record".into(),
        "device_bytes_per_payload_byte" => return "device bytes/byte".into(),
        other => other,
    };
    let name = name.strip_suffix("_us").unwrap_or(name);
    name.replace("p99_99", "p99.99").replace("p99_9", "p99.9").replace('_', " ")
}

/// A figure in the unit that people read it in.
fn shown(name: &str, value: f64) -> String {
    if name.ends_with("bytes_per_second") {
        grouped(value / 1e6)
    } else if name.ends_with("_us") {
        format!("{} ms", short(value / 1000.0))
    } else {
        short(value)
    }
}

pub struct Row {
    pub case: String,
    pub metrics: Metrics,
    pub goals: Vec<Goal>,
    /// What a person should know beside the figures.
    pub notes: Vec<String>,
}

impl Row {
    pub fn new(case: impl Into<String>, metrics: Metrics) -> Row {
        Row { case: case.into(), metrics, goals: Vec::new(), notes: Vec::new() }
    }

    /// The case could not be measured.
    pub fn failed(case: impl Into<String>, goals: Vec<Goal>, why: &str) -> Row {
        let mut metrics = Metrics::new();
        metrics.insert("failed".into(), why.into());
        Row { case: case.into(), metrics, goals, notes: vec![format!("FAILED: {why}")] }
    }

    /// What was measured, or why it was not.
    pub fn judged(case: &str, goals: Vec<Goal>, told: Result<Row, String>) -> Row {
        match told {
            Ok(row) => Row { goals, ..row },
            Err(why) => Row::failed(case, goals, &why),
        }
    }

    pub fn is_failed(&self) -> bool {
        self.metrics.contains_key("failed")
    }

    /// Adds what went wrong in rounds that are not among the figures.
    pub fn add_errors(&mut self, rounds: &[Figures]) {
        let errors = get(&self.metrics, "errors").unwrap_or(0.0) as u64;
        let more: u64 = rounds.iter().map(|round| round.errors).sum();
        self.metrics.insert("errors".into(), json!(errors + more));
    }

    /// Something was measured, and nothing of it went wrong.
    fn is_sound(&self) -> bool {
        let is_wrong = ["failed", "not_verified"].iter().any(|name| self.metrics.contains_key(*name));
        let is_idle = get(&self.metrics, "records_per_second") == Some(0.0);
        !is_wrong && !is_idle && get(&self.metrics, "errors").unwrap_or(0.0) == 0.0
    }

    /// `None`: there was nothing to reach.
    pub fn reached(&self) -> Option<bool> {
        match self.goals.is_empty() {
            true => (!self.is_sound()).then_some(false),
            false => Some(self.is_sound() && self.goals.iter().all(|goal| goal.is_reached(&self.metrics))),
        }
    }

    pub fn to_reach(&self) -> String {
        self.goals.iter().map(Goal::text).collect::<Vec<_>>().join(", ")
    }

    /// Each goal with what was reached of it.
    pub fn verdicts(&self) -> String {
        self.goals.iter().map(|goal| goal.verdict(&self.metrics)).collect::<Vec<_>>().join(", ")
    }

    pub fn json(&self) -> Value {
        let mut object = self.metrics.clone();
        if !self.is_failed() {
            // Where no record was sent none has failed.
            object.entry("errors").or_insert(json!(0));
        }
        for name in KEYS {
            object.entry(name).or_insert(Value::Null);
        }
        object.insert("case".into(), json!(self.case));
        object.insert("to_reach".into(), json!(self.to_reach()));
        // What was only to be measured is reached by having been measured.
        object.insert("reached".into(), json!(self.reached().unwrap_or(true)));
        if !self.notes.is_empty() {
            object.insert("notes".into(), json!(self.notes));
        }
        Value::Object(object)
    }

    fn cell(&self, name: &str, show: impl Fn(f64) -> String) -> String {
        get(&self.metrics, name).map_or("-".into(), show)
    }

    /// The cells of the table, in the order of [`HEAD`].
    fn cells(&self) -> Vec<String> {
        let ms = |value: f64| short(value / 1000.0);
        let mega = |value: f64| grouped(value / 1e6);
        let kilo = |value: f64| short(value / 1e3);
        let whole = |value: f64| grouped(value);
        vec![
            self.case.clone(),
            self.cell("bytes_per_second", mega),
            self.cell("null_bytes_per_second", mega),
            self.cell("eta", |eta| format!("{eta:.2}")),
            self.cell("records_per_second", kilo),
            self.cell("broker_cpu_ns_per_record", whole),
            self.cell("megabytes_per_second_per_broker_core", whole),
            self.cell("broker_resident_bytes", |bytes| grouped(bytes / f64::from(1 << 20))),
            self.cell("device_bytes_per_payload_byte", |ratio| format!("{ratio:.2}")),
            self.cell("flushes_per_second", whole),
            self.cell("p50_us", ms),
            self.cell("p99_us", ms),
            self.cell("p99_9_us", ms),
            self.cell("max_us", ms),
            self.cell("errors", whole),
        ]
    }
}

const HEAD: [&str; 15] = [
    "case",
    "MB/s",
    "null",
    "eta",
    "k rec/s",
    "ns/rec",
    "MB/s/core",
    "RSS MiB",
    "dev B/B",
    "flush/s",
    "p50 ms",
    "p99 ms",
    "p99.9 ms",
    "max ms",
    "err",
];

/// The rows as a table, the first column to the left and the others to the right.
pub fn table(rows: &[Row]) -> String {
    let mut lines: Vec<Vec<String>> = vec![HEAD.map(str::to_owned).to_vec()];
    lines.extend(rows.iter().map(Row::cells));
    let with_goals = rows.iter().any(|row| !row.goals.is_empty());
    let width = |column: usize| lines.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let mut out = String::new();
    for (number, cells) in lines.iter().enumerate() {
        let mut line = format!("{:<1$}", cells[0], widths[0]);
        for (cell, width) in cells.iter().zip(&widths).skip(1) {
            line.push_str(&format!("  {cell:>width$}"));
        }
        let row = number.checked_sub(1).map(|number| &rows[number]);
        match row {
            None if with_goals => line.push_str("  reached  what, of what was to reach"),
            Some(row) if with_goals => {
                let reached = match row.reached() {
                    Some(true) => "yes",
                    Some(false) => "NO",
                    None => "",
                };
                line.push_str(&format!("  {reached:<7}  {}", row.verdicts()));
            }
            _ => {}
        }
        out.push_str(line.trim_end());
        out.push('\n');
        for note in row.map_or(&[][..], |row| &row.notes) {
            out.push_str(&format!("    {note}\n"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::put;

    fn row() -> Row {
        let mut metrics = Metrics::new();
        put(&mut metrics, "bytes_per_second", Some(512e6));
        put(&mut metrics, "eta", Some(0.81));
        put(&mut metrics, "p99_9_us", Some(2_500.0));
        Row {
            goals: vec![at_least("eta", 0.8), at_least("bytes_per_second", 500e6)],
            ..Row::new("a", metrics)
        }
    }

    #[test]
    fn a_row_is_reached_by_all_of_its_goals() {
        let mut row = row();
        assert_eq!(row.reached(), Some(true));
        assert_eq!(row.to_reach(), "eta >= 0.80, MB/s >= 500");
        row.goals.push(at_most("p99_9_us", 2_000.0));
        assert_eq!(row.reached(), Some(false));
        assert!(row.to_reach().ends_with("p99.9 <= 2 ms"));
        assert_eq!(row.verdicts(), "eta 0.81 >= 0.80, MB/s 512 >= 500, !p99.9 2.50 ms <= 2 ms");
        assert_eq!(Row::new("b", Metrics::new()).reached(), None);
        assert_eq!(Row::failed("c", vec![at_most("nothing", 1.0)], "why").reached(), Some(false));
    }

    #[test]
    fn every_line_of_json_has_the_promised_keys() {
        for row in [row(), Row::new("empty", Metrics::new()), Row::failed("c", Vec::new(), "why")] {
            let value = row.json();
            for name in KEYS {
                assert!(value.get(name).is_some(), "{name} in {value}");
            }
        }
        assert_eq!(row().json()["reached"], json!(true));
    }

    #[test]
    fn what_went_wrong_or_did_not_happen_is_not_reached() {
        for (name, value) in
            [("errors", json!(1)), ("not_verified", json!("lost")), ("records_per_second", json!(0.0))]
        {
            for mut row in [row(), Row::new("no goals", Metrics::new())] {
                assert_eq!(row.json()["reached"], json!(true), "{name}");
                row.metrics.insert(name.into(), value.clone());
                assert_eq!(row.json()["reached"], json!(false), "{name}");
            }
        }
    }

    #[test]
    fn a_table_has_a_line_for_each_row() {
        let text = table(&[row(), Row::failed("case two", Vec::new(), "why")]);
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.lines().nth(1).unwrap().contains("512") && text.contains("FAILED: why"));
    }
}
