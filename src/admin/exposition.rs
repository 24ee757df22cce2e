//! The text that Prometheus reads: its own format 0.0.4, and OpenMetrics 1.0 for those who ask for it. The two differ
//! in how a counter's family is named and in the end.

use std::fmt::{Display, Write};

use crate::telemetry::histogram::Histogram;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Prometheus,
    OpenMetrics,
}

impl Format {
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The text as it grows. Families are written one after the other, each with all its samples.
pub(super) struct Exposition {
    out: String,
    format: Format,
}

/// Label names and values.
pub(super) type Labels<'l> = &'l [(&'l str, &'l str)];

impl Exposition {
    pub(super) fn new(format: Format) -> Self {
        Self { out: String::with_capacity(16 * 1024), format }
    }

    /// A counter; `name` ends with `_total`.
    pub(super) fn counter(&mut self, name: &str, help: &str) -> Samples<'_> {
        let family = match self.format {
            Format::Prometheus => name,
            Format::OpenMetrics => name.strip_suffix("_total").unwrap_or(name),
        };
        self.family(family, "counter", help);
        Samples { name: name.to_owned(), out: &mut self.out }
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str) -> Samples<'_> {
        self.family(name, "gauge", help);
        Samples { name: name.to_owned(), out: &mut self.out }
    }

    pub(super) fn histogram(&mut self, name: &str, help: &str) -> Histograms<'_> {
        self.family(name, "histogram", help);
        Histograms { name: name.to_owned(), out: &mut self.out }
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _: std::fmt::Result = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub(super) fn end(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
        self.out
    }
}

/// The samples of one family.
pub(super) struct Samples<'e> {
    name: String,
    out: &'e mut String,
}

impl Samples<'_> {
    pub(super) fn add(&mut self, labels: Labels<'_>, value: impl Display) -> &mut Self {
        sample(self.out, &self.name, labels, value);
        self
    }
}

pub(super) struct Histograms<'e> {
    name: String,
    out: &'e mut String,
}

impl Histograms<'_> {
    pub(super) fn add(&mut self, labels: Labels<'_>, histogram: &Histogram) -> &mut Self {
        let (bucket, mut below) = (format!("{}_bucket", self.name), 0);
        for (bound, count) in histogram.classes() {
            below += count;
            let bound = if bound < f64::MAX { bound.to_string() } else { "+Inf".to_owned() };
            let labels: Vec<_> = labels.iter().copied().chain([("le", bound.as_str())]).collect();
            sample(self.out, &bucket, &labels, below);
        }
        sample(self.out, &format!("{}_count", self.name), labels, histogram.count());
        sample(self.out, &format!("{}_sum", self.name), labels, histogram.sum());
        self
    }
}

fn sample(out: &mut String, name: &str, labels: Labels<'_>, value: impl Display) {
    out.push_str(name);
    for (n, (label, text)) in labels.iter().enumerate() {
        out.push(if n == 0 { '{' } else { ',' });
        out.push_str(label);
        out.push_str("=\"");
        escape(out, text);
        out.push('"');
    }
    if !labels.is_empty() {
        out.push('}');
    }
    let _: std::fmt::Result = writeln!(out, " {value}");
}

/// A label's value: names of the configuration may hold anything.
fn escape(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_counters_family_is_named_as_each_format_wants_it() {
        let text = |format| {
            let mut out = Exposition::new(format);
            out.counter("x_total", "Help.").add(&[("a", "q\"\\\nz")], 3);
            out.end()
        };
        let sample = "x_total{a=\"q\\\"\\\\\\nz\"} 3\n";
        assert_eq!(
            text(Format::Prometheus),
            format!("# HELP x_total Help.\n# TYPE x_total counter\n{sample}")
        );
        assert_eq!(text(Format::OpenMetrics), format!("# HELP x Help.\n# TYPE x counter\n{sample}# EOF\n"));
    }

    #[test]
    fn a_histograms_buckets_are_cumulative_up_to_all() {
        let mut histogram = Histogram::default();
        [1, 3, 70_000].into_iter().for_each(|ms| histogram.add(Duration::from_millis(ms)));
        let mut out = Exposition::new(Format::Prometheus);
        out.histogram("h_seconds", "Help.").add(&[("route", "/a")], &histogram);
        let text = out.end();
        for line in [
            "h_seconds_bucket{route=\"/a\",le=\"0.0005\"} 0",
            "h_seconds_bucket{route=\"/a\",le=\"0.001\"} 1",
            "h_seconds_bucket{route=\"/a\",le=\"60\"} 2",
            "h_seconds_bucket{route=\"/a\",le=\"+Inf\"} 3",
            "h_seconds_count{route=\"/a\"} 3",
            "h_seconds_sum{route=\"/a\"} 70.004",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }
}
