//! Plots as SVG, written by hand: axes, a grid, lines with points, a legend.
//!
//! Owner: ringbench. Pure but for the file.

use std::fmt::Write;
use std::path::Path;

use crate::progress::say;
use crate::units::short;

pub struct Axis {
    pub label: String,
    pub logarithmic: bool,
}

pub struct Line {
    pub label: String,
    pub points: Vec<(f64, f64)>,
}

pub struct Plot {
    pub title: String,
    pub x: Axis,
    pub y: Axis,
    pub lines: Vec<Line>,
}

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 480.0;
/// Around the area of the lines: left, top, right (the legend), bottom.
const MARGINS: [f64; 4] = [70.0, 40.0, 210.0, 60.0];
const COLOURS: [&str; 7] = ["#0b6e99", "#c0392b", "#7d3c98", "#1e8449", "#d68910", "#566573", "#5d4037"];

/// One axis' values, and where they lie between 0 and 1.
struct Scale {
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Scale {
    fn over(values: impl Iterator<Item = f64>, logarithmic: bool) -> Scale {
        let usable = |value: &f64| value.is_finite() && (!logarithmic || *value > 0.0);
        let (low, high) = values
            .filter(usable)
            .fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
        if low > high || high <= 0.0 {
            return Scale { low: if logarithmic { 1.0 } else { 0.0 }, high: 10.0, logarithmic };
        }
        if logarithmic {
            let (low, high) = (low.log10().floor(), high.log10().ceil());
            return Scale { low: 10f64.powf(low), high: 10f64.powf(high.max(low + 1.0)), logarithmic };
        }
        // From zero: a plot that begins elsewhere flatters differences.
        let step = nice(high / 5.0);
        Scale { low: 0.0, high: (high / step).ceil().max(1.0) * step, logarithmic }
    }

    fn part(&self, value: f64) -> f64 {
        let part = match self.logarithmic {
            true => (value.max(self.low).log10() - self.low.log10()) / (self.high.log10() - self.low.log10()),
            false => (value - self.low) / (self.high - self.low),
        };
        // What is no number lies at the edge rather than in the file.
        if part.is_finite() { part.clamp(0.0, 1.0) } else { 0.0 }
    }

    /// Values that get a line and a label.
    fn marks(&self) -> Vec<f64> {
        if self.logarithmic {
            let decades = (self.high.log10() - self.low.log10()).round() as i32;
            return (0..=decades).map(|decade| self.low * 10f64.powi(decade)).collect();
        }
        let step = nice(self.high / 5.0);
        let count = (self.high / step).round() as u32;
        (0..=count).map(|index| f64::from(index) * step).collect()
    }
}

/// 1, 2 or 5 times a power of ten, at least `step`.
fn nice(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|nice| *nice >= step * 0.999)
        .unwrap_or(step)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

impl Plot {
    pub fn write(&self, path: &Path) -> Result<(), String> {
        let told = |error: std::io::Error| format!("{}: {error}", path.display());
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(told)?;
        }
        std::fs::write(path, self.svg()).map_err(told)?;
        say(&format!("wrote {}", path.display()));
        Ok(())
    }

    pub fn svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let x = Scale::over(points().map(|point| point.0), self.x.logarithmic);
        let y = Scale::over(points().map(|point| point.1), self.y.logarithmic);
        let [left, top, right, bottom] = MARGINS;
        let (width, height) = (WIDTH - left - right, HEIGHT - top - bottom);
        let at = |point: (f64, f64)| (left + x.part(point.0) * width, top + (1.0 - y.part(point.1)) * height);
        let mut out = String::new();
        let mut put = |line: String| {
            // Writing into a string does not fail.
            let _ = writeln!(out, "{line}");
        };
        put(format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">"#
        ));
        put(format!(r##"<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>"##));
        put(format!(r#"<text x="{left}" y="22" font-size="15">{}</text>"#, escape(&self.title)));
        for mark in x.marks() {
            let (px, _) = at((mark, y.low));
            let (y1, y2) = (top, top + height);
            put(format!(r##"<line x1="{px:.1}" y1="{y1:.1}" x2="{px:.1}" y2="{y2:.1}" stroke="#dddddd"/>"##));
            let label = short(mark);
            put(format!(r#"<text x="{px:.1}" y="{:.1}" text-anchor="middle">{label}</text>"#, y2 + 18.0));
        }
        for mark in y.marks() {
            let (_, py) = at((x.low, mark));
            let x2 = left + width;
            put(format!(r##"<line x1="{left}" y1="{py:.1}" x2="{x2:.1}" y2="{py:.1}" stroke="#dddddd"/>"##));
            let label = short(mark);
            put(format!(
                r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{label}</text>"#,
                left - 6.0,
                py + 4.0
            ));
        }
        for (number, line) in self.lines.iter().filter(|line| !line.points.is_empty()).enumerate() {
            put_line(&mut put, line, COLOURS[number % COLOURS.len()], number, &at);
        }
        let middle = left + width / 2.0;
        let below = HEIGHT - 14.0;
        put(format!(
            r#"<text x="{middle}" y="{below}" text-anchor="middle">{}</text>"#,
            escape(&self.x.label)
        ));
        let middle = top + height / 2.0;
        put(format!(
            r#"<text x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16 {middle})">{}</text>"#,
            escape(&self.y.label)
        ));
        put("</svg>".into());
        out
    }
}

/// A line, its points, and its place in the legend.
fn put_line(
    put: &mut impl FnMut(String),
    line: &Line,
    colour: &str,
    number: usize,
    at: &impl Fn((f64, f64)) -> (f64, f64),
) {
    let places: Vec<(f64, f64)> = line.points.iter().map(|point| at(*point)).collect();
    let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    put(format!(r#"<polyline fill="none" stroke="{colour}" stroke-width="2" points="{}"/>"#, path.join(" ")));
    for (x, y) in &places {
        put(format!(r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" fill="{colour}"/>"#));
    }
    let x = WIDTH - MARGINS[2] + 14.0;
    let y = MARGINS[1] + 10.0 + number as f64 * 20.0;
    put(format!(r#"<rect x="{x}" y="{:.1}" width="12" height="4" fill="{colour}"/>"#, y - 6.0));
    put(format!(r#"<text x="{:.1}" y="{y:.1}">{}</text>"#, x + 18.0, escape(&line.label)));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every element that is opened is closed, and there is one root: enough for what is written here.
    fn is_well_formed(text: &str) -> bool {
        let mut open: Vec<&str> = Vec::new();
        let mut roots = 0;
        for tag in text.split('<').skip(1) {
            let Some((tag, _)) = tag.split_once('>') else { return false };
            if let Some(name) = tag.strip_prefix('/') {
                if open.pop() != Some(name) {
                    return false;
                }
            } else {
                let name = tag.split([' ', '/']).next().unwrap_or_default();
                roots += u32::from(open.is_empty());
                if tag.matches('"').count() % 2 != 0 {
                    return false;
                }
                if !tag.ends_with('/') {
                    open.push(name);
                }
            }
        }
        open.is_empty() && roots == 1 && !text.contains("NaN") && !text.contains("inf")
    }

    fn plot(points: &[(f64, f64)], logarithmic: bool) -> String {
        let axis = |label: &str| Axis { label: label.into(), logarithmic };
        let line = |label: &str| Line { label: label.into(), points: points.to_vec() };
        let lines = vec![line("a <b> & c"), line("second")];
        Plot { title: "t & t".into(), x: axis("x"), y: axis("y"), lines }.svg()
    }

    #[test]
    fn plots_are_well_formed_whatever_the_points() {
        let sets: [&[(f64, f64)]; 5] = [
            &[],
            &[(0.0, 0.0)],
            &[(10.0, 3.0), (1e5, 900.0)],
            &[(5.0, 7.0), (5.0, 7.0)],
            &[(f64::NAN, 1.0), (-3.0, 2.0)],
        ];
        for points in sets {
            for logarithmic in [true, false] {
                let text = plot(points, logarithmic);
                assert!(is_well_formed(&text), "{points:?} {logarithmic}: {text}");
            }
        }
        assert!(!is_well_formed("<svg><g></svg>"));
    }

    #[test]
    fn axes_have_round_marks() {
        let linear = Scale::over([3.0, 870.0].into_iter(), false);
        assert_eq!(linear.marks(), [0.0, 200.0, 400.0, 600.0, 800.0, 1000.0]);
        let logarithmic = Scale::over([30.0, 4_000.0].into_iter(), true);
        let marks: Vec<f64> = logarithmic.marks().iter().map(|mark| mark.round()).collect();
        assert_eq!(marks, [10.0, 100.0, 1_000.0, 10_000.0]);
        assert!(logarithmic.part(10.0) < 1e-9 && logarithmic.part(10_000.0) > 0.999);
    }
}
